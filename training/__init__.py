"""What is learned: encoders of satellite images, pretrained and then put to use.

Read `methods/mae.py` first: a method is a spec, a module that turns a batch into losses, and the recipes of its
paper. `loop.py` steps it, `feed.py` brings the batches, `worker.py` puts the loop on many devices, and the encoder
that comes out is given heads in `tasks/` by `methods/finetune.py`, which is a method like any other.
"""
