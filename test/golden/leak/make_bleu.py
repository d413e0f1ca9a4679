"""Writes bleu.json: 1000 pairs of texts with sacrebleu's own sentence BLEU. `pip install sacrebleu==2.6.0; python make_bleu.py`

Texts are drawn from the words below with a fixed seed; what 13a, smoothing and Python's whitespace treat in a special way
is planted on purpose. Fields: hypothesis, reference, score, score without smoothing, score of lower-cased text.
"""
import json, os, random
import sacrebleu
from sacrebleu.metrics import BLEU

random.seed(20230403)
WORDS = """the a of to and in is what how write me please list explain love rust poem about garden river story for child
year-old U.S. e.g. 3.14 1,000 12-year 2023- don't it's "quoted" (aside) [note] {x} a/b c++ C# $5.00 50% user@host x_y
naïve café größer 你好 東京 привет мир 😀 👩‍💻 Ελλάδα ελλάς İstanbul &amp; &quot;said&quot; &lt;tag&gt; &nbsp; <b> </b>
code= x=1; def f(x): return x+1 ... .. ., ,. -- - -5 5- a.b.c .5 5. ,5 5, ;; ?! ~ ^ ` | \\ # @ * _ <skipped>""".split()
SPACES = [" "] * 30 + ["  ", "\n", "\t", "\u00a0", "\u3000", "\u2028", "\x1c", "\x1f", "\x85", "\ufeff", "-\n", "\r\n", "\u200b"]


def text(n):
    return "".join(random.choice(WORDS) + random.choice(SPACES) for _ in range(n))


def edited(words):
    out = []
    for w in words.split(" "):
        r = random.random()
        if r < 0.08: continue
        if r < 0.16: w = random.choice(WORDS)
        if r < 0.20: out.append(random.choice(WORDS))
        if r > 0.97: w = w.upper()
        out.append(w)
    return " ".join(out)


pairs = []
for i in range(1000):
    n = random.choice([1, 2, 3, 4, 5, 6, 8, 12, 20, 40, 90])
    h = text(n)
    kind = i % 8
    if kind == 0: r = text(random.choice([1, 3, 5, 10, 30, 80]))
    elif kind == 1: r = h
    elif kind in (2, 3, 4): r = edited(h)
    elif kind == 5: r = text(random.randint(0, 30)) + h + text(random.randint(0, 60))
    elif kind == 6: r = h.upper()
    else: r = h[: random.randint(0, len(h))]
    pairs.append((h, r))
pairs[0], pairs[1], pairs[2], pairs[3] = ("", ""), ("", "a b"), ("a b", ""), ("What is love?", "What is rust?")

plain = BLEU(effective_order=True)
rough = BLEU(effective_order=True, smooth_method="none")
lower = BLEU(effective_order=True, lowercase=True)
rows = []
for h, r in pairs:
    score = sacrebleu.sentence_bleu(h, [r]).score
    assert score == plain.sentence_score(h, [r]).score
    rows.append([h, r, score, rough.sentence_score(h, [r]).score, lower.sentence_score(h, [r]).score])
signature = str(plain.get_signature())
here = os.path.dirname(os.path.abspath(__file__))
with open(os.path.join(here, "bleu.json"), "w", encoding="utf-8") as f:
    f.write(json.dumps({"signature": signature, "sacrebleu": sacrebleu.__version__, "rows": rows}))
print(signature, sum(x[2] > 20 for x in rows), sum(0 < x[2] <= 20 for x in rows), sum(x[2] == 0 for x in rows))
