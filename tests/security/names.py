"""Names that somebody may choose to do harm with them."""

from __future__ import annotations

# What each is good for, and the name.
NAMES = {
    "a quote": "o'brien",
    "a statement": "x'; drop table public.canary; --",
    "a statement in a dollar quote": "x$$; drop table public.canary; $$ select $body$",
    "a statement after a format": "%I %L %s %1$I %%'; drop table public.canary; --",
    "an escape string": "\\'; drop table public.canary; --\\",
    "a double quote": 'x"; drop table public.canary; --"',
    "a comment": "/* x -- */ --",
    "an identifier": "public.canary",
    "a pattern": "%_\\%(a|b)*[^x]+",
    "braces": "{0} {x!r} {{}} ${HOME} `id` $(id)",
    "markup": "[bold red]x[/] <script>alert(1)</script> :boom:",
    "a path": "../../etc/passwd?x=1#y%2e%00",
    "a new line": "x\n2026-01-01T00:00:00.000Z ERROR pgsched: forged\r\n",
    "a terminal": "\x1b[2J\x1b]0;owned\x07\x08\x7f\x9b31m",
    "a direction": "\u202edrow\u2066\u200f\u061c",
    "separators": "\u0085\u2028\u2029\ufeff\u00a0\u200b",
    "combining": "e\u0301\u0327\u0323" * 20,
    "emoji": "\U0001f3f4\u200d\u2620\ufe0f\U0001f600",
    "64 bytes": "é" * 32,
    "200 characters": "ü" * 200,
    "very long": "x'" * 3500,
    "a blank": " ",
    "nothing": "",
    "null": "null",
}
# What moves the cursor of a terminal, colours it or turns what is read.
HARMFUL = {char for name in NAMES.values() for char in name if not char.isprintable()}
