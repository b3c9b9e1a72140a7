// The two TypeScript clients: connect over stdio, list, call, be refused. Both check answers against the output schemas.
// node typescript.mjs NODE_MODULES PYTHON REPOSITORY RUN_ID; prints JSON.
import { createRequire } from "node:module";
import { pathToFileURL } from "node:url";

const [modules, command, repo, run] = process.argv.slice(2);
const require = createRequire(pathToFileURL(`${modules}/`));
const load = name => import(pathToFileURL(require.resolve(name)));
const args = ["-m", "tune_mcp", "serve", "--repo", repo];
const env = { ...process.env };

async function walk(client, transport) {
  await client.connect(transport);
  const { tools } = await client.listTools();
  const calls = [["catalog", { model: "toy" }], ["precheck", { model: "toy" }], ["status", { run_id: run }],
    ["status", { run_id: run, wait_s: 0 }], ["status", {}], ["strict_audit", { run_id: run }], ["report", { run_id: run }],
    ["apply_plan", { run_id: run }], ["tail_pytest", { run_id: run }]];
  const said = {};
  for (const [name, given] of calls) {
    const answer = await client.callTool({ name, arguments: given });
    if (answer.isError) throw new Error(`${name}: ${answer.content[0].text}`);
    said[name] = answer.structuredContent.next;
  }
  const refused = await client.callTool({ name: "status", arguments: { run_id: "nope", wait_s: 99 } });
  const { prompts } = await client.listPrompts();
  await client.close();
  return { tools: tools.map(tool => tool.name), said, refused: refused.structuredContent.code, prompts: prompts.length };
}

const one = await load("@modelcontextprotocol/sdk/client/index.js");
const oneStdio = await load("@modelcontextprotocol/sdk/client/stdio.js");
const two = await load("@modelcontextprotocol/client");
const twoStdio = await load("@modelcontextprotocol/client/stdio");
const name = { name: "test", version: "1" };
console.log(JSON.stringify({
  1: await walk(new one.Client(name), new oneStdio.StdioClientTransport({ command, args, env })),
  2: await walk(new two.Client(name), new twoStdio.StdioClientTransport({ command, args, env })),
}));
