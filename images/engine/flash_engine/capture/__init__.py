"""Records calibration data for the MTP quantiser: runs prompts through vLLM, and keeps what enters the MTP experts.

`flash-capture` runs in the engine's image. Prompts are answered first, and then read once more together with their
answers: reading runs the MTP layer over each token exactly once, while during generation it also sees drafts that the
model rejects.
"""
