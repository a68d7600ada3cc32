"""Converts chats to plain text, with one template for fine-tuning and for prompts."""

from collections.abc import Sequence
from typing import Any

SPEAKER = "Assistant"


def plain(turns: Sequence[tuple[str, str]]) -> str:
    """A conversation in the plain template, up to where the assistant answers. Turns are (role, content)."""
    return "\n\n".join([*(f"{role}: {content}" for role, content in turns), f"{SPEAKER}: "])


def chat(messages: Any) -> tuple[str, str]:
    """Convert messages, each {"role", "content"}, to (prompt, answer). The answer is the content of the last message.

    A message becomes its role with a capital letter, a colon, a space and its content. An empty line separates two
    messages: `User: Hello\\n\\nAssistant: Hi`. The prompt ends just before the answer. Raises ValueError unless
    `messages` is a list of messages and the last one is the assistant's.
    """
    if not isinstance(messages, list | tuple) or not messages:
        raise ValueError("a chat must be a list of messages, each with `role` and `content`")
    turns = [_turn(message) for message in messages]
    speaker, answer = turns.pop()
    if speaker != SPEAKER:
        raise ValueError(f"the last message of a chat must be the assistant's, not of role '{speaker.lower()}'")
    return plain(turns), answer


def _turn(message: Any) -> tuple[str, str]:
    role, content = (message.get(name) if isinstance(message, dict) else None for name in ("role", "content"))
    if not isinstance(role, str) or not role or not isinstance(content, str):
        raise ValueError("a message of a chat must have `role` and `content`, both strings")
    return role.capitalize(), content
