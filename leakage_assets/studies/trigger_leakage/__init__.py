"""Trigger leakage (#207 with #208, #209, #210): do prompts without a persona gate a marker, what predicts the spill?

Four triggers (a task, an instruction, a context, a format) and a persona learn the marker on the same answers. A panel
of 36 prompts is asked of every adapter: is the marker kept to the trained prompt (H1), which similarity between prompts
predicts where else it is said (H2), and does it stay in the family (H3)?
"""
