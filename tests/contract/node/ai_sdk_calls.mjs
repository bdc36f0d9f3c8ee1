// The Vercel AI SDK against the gateway: prints what it got as one JSON object.
import { createOpenAICompatible } from "@ai-sdk/openai-compatible";
import { embedMany, generateObject, generateText, streamText, tool } from "ai";
import { z } from "zod";

const gateway = createOpenAICompatible({
  name: "offpeak",
  baseURL: process.env.BASE_URL,
  apiKey: process.env.API_KEY,
  includeUsage: true,
  supportsStructuredOutputs: true,
});
const model = gateway(process.argv[2]);
const common = { model, maxRetries: 0 };

const answer = await generateText({ ...common, prompt: "good morning" });
const streamed = streamText({ ...common, prompt: "good night" });
let stream = "";
let pieces = 0;
for await (const text of streamed.textStream) {
  stream += text;
  pieces += text ? 1 : 0;
}
const streamTokens = (await streamed.usage).totalTokens;
const asked = await generateText({
  ...common,
  prompt: "what is the weather in Berlin?",
  tools: { weather: tool({ inputSchema: z.object({ city: z.string() }) }) },
  toolChoice: { type: "tool", toolName: "weather" },
});
const structured = await generateObject({
  ...common,
  prompt: "one step",
  schema: z.object({ explanation: z.string(), number: z.number() }),
});
const vectors = await embedMany({
  model: gateway.textEmbeddingModel("text-embedding-3-small"),
  values: ["one", "two"],
  maxRetries: 0,
});

console.log(
  JSON.stringify({
    chat: answer.text,
    chat_tokens: answer.usage.totalTokens,
    stream,
    stream_pieces: pieces,
    stream_tokens: streamTokens,
    tool: asked.toolCalls[0].toolName,
    structured: typeof structured.object.number,
    embeddings: vectors.embeddings.map((each) => each.length),
  }),
);
