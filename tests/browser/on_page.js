// What a test asks of a rendered page. Each function returns plain JSON.
const onPage = {
  colour(text) {
    const [r, g, b, a = 1] = text.match(/[\d.]+/g).map(Number);
    return { r, g, b, a };
  },
  over(front, back) {
    const mix = (f, b) => f * front.a + b * (1 - front.a);
    return { r: mix(front.r, back.r), g: mix(front.g, back.g), b: mix(front.b, back.b), a: 1 };
  },
  background(element) {
    const layers = [];
    for (let one = element; one; one = one.parentElement) layers.push(onPage.colour(getComputedStyle(one).backgroundColor));
    return layers.reverse().reduce((back, front) => onPage.over(front, back), { r: 255, g: 255, b: 255, a: 1 });
  },
  luminance({ r, g, b }) {
    const line = (v) => ((v /= 255) <= 0.04045 ? v / 12.92 : ((v + 0.055) / 1.055) ** 2.4);
    return 0.2126 * line(r) + 0.7152 * line(g) + 0.0722 * line(b);
  },
  // Visible texts whose contrast with what lies behind them is below WCAG's 4.5 : 1.
  faint() {
    const found = [];
    const walker = document.createTreeWalker(document.body, NodeFilter.SHOW_TEXT);
    while (walker.nextNode()) {
      const text = walker.currentNode.textContent.trim();
      const element = walker.currentNode.parentElement;
      if (!text || element.closest("title") || !element.checkVisibility()) continue;
      const style = getComputedStyle(element);
      const back = onPage.background(element);
      const ink = element.closest("svg") ? style.fill : style.color;
      const front = onPage.over(onPage.colour(ink), back);
      const [light, dark] = [onPage.luminance(front), onPage.luminance(back)].sort((a, b) => b - a);
      const contrast = (light + 0.05) / (dark + 0.05);
      if (contrast < 4.5) found.push(`${contrast.toFixed(2)} ${text}`);
    }
    return found;
  },
  // Elements that stick out of the page and are in nothing that scrolls.
  sticking() {
    return [...document.body.querySelectorAll("*")]
      .filter((one) => one.checkVisibility() && !one.closest(".scroll, pre, svg"))
      .filter((one) => one.getBoundingClientRect().right > document.documentElement.clientWidth + 0.5)
      .map((one) => `${one.tagName}.${one.className} ${one.textContent.trim().slice(0, 60)}`);
  },
  // Strips: how many repeats are drawn where a reader can see them.
  marks() {
    return [...document.querySelectorAll("svg.strip")].map((strip) => {
      const frame = strip.getBoundingClientRect();
      return [...strip.querySelectorAll("circle.dot")].filter((dot) => {
        const box = dot.getBoundingClientRect();
        return box.width > 4 && box.left >= frame.left - 1 && box.right <= frame.right + 1 && box.top >= frame.top - 1;
      }).length;
    });
  },
  // Words in a strip that lie over one another.
  clashes() {
    const found = [];
    for (const strip of document.querySelectorAll("svg.strip")) {
      const words = [...strip.querySelectorAll("text")].map((one) => [one.textContent, one.getBoundingClientRect()]);
      words.forEach(([text, box], place) =>
        words.slice(place + 1).forEach(([other, rest]) => {
          const apart = box.right <= rest.left || rest.right <= box.left || box.bottom <= rest.top + 2 || rest.bottom <= box.top + 2;
          if (!apart) found.push(`${text} / ${other}`);
        }),
      );
    }
    return found;
  },
};
