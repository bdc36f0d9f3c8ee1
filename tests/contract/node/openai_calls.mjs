// The official OpenAI SDK for Node against the gateway: prints what it got as one JSON object.
import OpenAI from "openai";
import { zodResponseFormat } from "openai/helpers/zod";
import { z } from "zod";

const model = process.argv[2];
const client = new OpenAI({
  baseURL: process.env.BASE_URL,
  apiKey: process.env.API_KEY,
  maxRetries: 0,
});
const says = (content) => [{ role: "user", content }];
const weather = {
  type: "function",
  function: {
    name: "weather",
    parameters: { type: "object", properties: { city: { type: "string" } } },
  },
};

const { data: answer, response } = await client.chat.completions
  .create({ model, messages: says("good morning") })
  .withResponse();

let stream = "";
let pieces = 0;
let streamTokens = 0;
const chunks = await client.chat.completions.create({
  model,
  messages: says("good night"),
  stream: true,
  stream_options: { include_usage: true },
});
for await (const chunk of chunks) {
  const text = chunk.choices[0]?.delta?.content ?? "";
  stream += text;
  pieces += text ? 1 : 0;
  streamTokens += chunk.usage?.total_tokens ?? 0;
}

const asked = await client.chat.completions.create({
  model,
  messages: says("what is the weather in Berlin?"),
  tools: [weather],
  tool_choice: { type: "function", function: { name: "weather" } },
});
const toolStream = client.chat.completions.stream({
  model,
  messages: says("what is the weather in Berlin?"),
  tools: [weather],
  tool_choice: { type: "function", function: { name: "weather" } },
});
const streamedTool = (await toolStream.finalMessage()).tool_calls?.[0];

const parsed = await client.chat.completions.parse({
  model,
  messages: says("one step"),
  response_format: zodResponseFormat(z.object({ explanation: z.string(), number: z.number() }), "step"),
});
const embeddings = await client.embeddings.create({
  model: "text-embedding-3-small",
  input: ["one", "two"],
});

const errors = {};
const attempt = async (name, call) => {
  try {
    await call();
    errors[name] = null;
  } catch (error) {
    errors[name] = [error.constructor.name, error.status, error.type];
  }
};
await attempt("bad", () => client.chat.completions.create({ model, messages: [] }));
await attempt("unknown", () => client.chat.completions.create({ model: "gpt-nothing", messages: says("hi") }));
await attempt("stranger", () =>
  new OpenAI({ baseURL: process.env.BASE_URL, apiKey: "sk-op-wrong", maxRetries: 0 }).models.list());

const later = await client.chat.completions.create({
  model,
  messages: says("whenever you like"),
  prefer_async: true,
});
const kept = await client.chat.completions.retrieve(later.id);

console.log(
  JSON.stringify({
    chat: answer.choices[0].message.content,
    chat_tokens: answer.usage.total_tokens,
    lane: response.headers.get("x-lane"),
    stream,
    stream_pieces: pieces,
    stream_tokens: streamTokens,
    tool: asked.choices[0].message.tool_calls[0].function.name,
    streamed_tool: streamedTool?.function?.name,
    streamed_arguments: typeof JSON.parse(streamedTool?.function?.arguments ?? "null"),
    structured: typeof parsed.choices[0].message.parsed.number,
    embeddings: embeddings.data.map((each) => each.embedding.length),
    errors,
    async_id: later.id,
    async_text: later.choices[0].message.content,
    async_kept: kept.id,
  }),
);
