"""What is spoken. The order is part of the data: a smaller sample is a prefix."""

from __future__ import annotations

SENTENCES = (
    # Near the recogniser's decision boundary, and chosen for that: heard now one way, now another.
    "The cook put a pinch of salt into the pot.",
    "She poured the milk into a tall glass.",
    "The lamp on the desk flickered twice.",
    # Misheard whenever we tried.
    "The waiter brought the wrong soup to our table.",
    "This old clock belonged to my father.",
    "Bring an umbrella because it may rain tonight.",
    "The river runs slowly through the green valley.",
    # Understood whenever we tried.
    "The quick brown fox jumps over the lazy dog.",
    "She opened the window and looked across the garden.",
    "The train to the city leaves at seven in the morning.",
    "We waited an hour for the rain to stop.",
    "My brother works in a small hotel near the station.",
    "He forgot to bring his passport to the airport.",
    "A cup of hot tea is good on a cold day.",
    "Our teacher explained the problem twice.",
    "It takes two hours to drive to the mountains.",
    "Nobody knew the answer to the last question.",
    "The company will open three new offices next year.",
    "He wrote a long letter to his grandmother.",
    "Turn left at the second traffic light.",
    "The engine stopped in the middle of the bridge.",
    "Her sister studies history at the university.",
    "The concert begins at half past eight.",
    "Good friends are hard to find.",
)

ENROLMENT = (
    # Spoken once with a fixed seed to fix the reference voice; never part of the sample.
    "The library has a quiet room for reading.",
    "They walked along the beach until dark.",
    "The museum is free for students on Thursday.",
)


def first_sentences(count: int) -> list[str]:
    """The first `count` sentences. Raises ValueError if there are fewer."""
    if not 0 < count <= len(SENTENCES):
        raise ValueError(f"{count} sentences asked for, there are {len(SENTENCES)}")
    return list(SENTENCES[:count])
