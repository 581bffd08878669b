"""Records calibration data for the MTP quantiser: runs prompts through vLLM, and records the MTP experts' inputs.

`flash-capture` runs in the engine's image. It first generates answers, and then reads prompts and answers together:
reading runs the MTP layer over each token exactly once, while generation also runs it over drafts that are rejected.
"""
