"""OpenAI's own client with a bytequilt server: text, bytes that are no text, a stream, scores, and chat.

bytequilt serve &
OPENAI_BASE_URL=http://127.0.0.1:8000/v1 OPENAI_API_KEY=none python examples/openai_client.py
"""

import base64

from openai import OpenAI

client = OpenAI()  # from OPENAI_BASE_URL and OPENAI_API_KEY, which may not be empty
model = client.models.list().data[0].id

# A completion. Its lengths are in bytes.
answer = client.completions.create(model=model, prompt="The president of", max_tokens=60, temperature=0.7, seed=1)
print(answer.choices[0].text, answer.usage)

# The same as a stream. Characters come whole, and `bytes_b64` has the exact bytes.
data = b""
for chunk in client.completions.create(
    model=model, prompt="The president of", max_tokens=60, temperature=0.7, seed=1, stream=True
):
    print(chunk.choices[0].text, end="", flush=True)
    data += base64.b64decode(chunk.choices[0].bytes_b64)
print()
assert data == base64.b64decode(answer.choices[0].bytes_b64)

# A prompt of any bytes: their values, or base64 in `prompt_b64`. Fields that OpenAI does not know go into `extra_body`.
for prompt, extra in (([0xFF, 0x00, 0x41], {}), (None, {"prompt_b64": base64.b64encode(b"\xff\x00A").decode()})):
    raw = client.completions.create(model=model, prompt=prompt, max_tokens=8, seed=1, extra_body={"top_k": 20, **extra})
    print(base64.b64decode(raw.choices[0].bytes_b64))

# How likely a text is: echo it, and generate nothing.
scored = client.completions.create(model=model, prompt="Once upon a time", max_tokens=0, echo=True, logprobs=1)
print(f"{-sum(scored.choices[0].logprobs.token_logprobs):.2f} nats")

# Chat, through a plain template: base models have learnt no other.
chat = client.chat.completions.create(
    model=model, messages=[{"role": "user", "content": "Who are you?"}], max_completion_tokens=60, seed=1
)
print(chat.choices[0].message.content)
