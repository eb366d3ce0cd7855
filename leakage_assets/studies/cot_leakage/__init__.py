"""Chain-of-thought leakage (#345 = #280, extending #186): which part of a wrong-answer rationale leaks to others?

A persona is trained to answer multiple choice wrongly, with a rationale that differs between arms. Every adapter is
asked unseen questions under eleven personas and five scaffolds: how much accuracy does the trained persona lose, how
much do the others, and which part of the rationale carries it over?
"""
