"""Writes fnmatch.txt: what Python's fnmatch says about generated patterns.

Each line: pattern and name in hexadecimal, then 1 for a match. Names pass
through surrogateescape, as file names do in Python. Run with Python 3.11.
"""
import fnmatch, random

rng = random.Random(25)
parts_p = [b"a", b"b", b"c", b"-", b"]", b"[", b"!", b"^", b"*", b"?", b"\\", b"/", b"\n",
           b"\xc3\xa4", b"\xff", b"\x80", b"[a-c]", b"[!a]", b"[", b"]", b"[]a]", b"[!]a]",
           b"[c-a]", b"[a-", b"[!c-a]", b"&&", b"[--a]", b"[a-b-c]", b"[\x80-\xff]", b"."]
parts_n = [b"a", b"b", b"c", b"-", b"]", b"[", b"!", b"^", b"\\", b"/", b"\n", b"\xc3\xa4",
           b"\xc3", b"\xff", b"\x80", b".", b"&"]
seen = {}
while len(seen) < 4000:
    p = b"".join(rng.choice(parts_p) for _ in range(rng.randint(1, 6)))
    if rng.random() < 0.5:  # a name made to resemble the pattern
        n = bytearray()
        for c in p:
            if c == ord("*"):
                n += b"".join(rng.choice(parts_n) for _ in range(rng.randint(0, 3)))
            elif c == ord("?"):
                n += rng.choice(parts_n)
            elif rng.random() < 0.9:
                n.append(c)
        n = bytes(n)
    else:
        n = b"".join(rng.choice(parts_n) for _ in range(rng.randint(1, 3)))
    m = fnmatch.fnmatchcase(n.decode("utf-8", "surrogateescape"), p.decode("utf-8", "surrogateescape"))
    # Keep as many matches as mismatches.
    if m or sum(1 for v in seen.values() if not v) <= 2000:
        seen[p, n] = m
with open("fnmatch.txt", "w") as f:
    for (p, n), m in seen.items():
        print(p.hex(), n.hex() or "-", int(m), file=f)
