"""Training and evaluation: one loop for a laptop CPU, a GPU, and many processes under torchrun.

``config`` what can be set · ``sampling`` which image when, with which random numbers · ``loop`` the
training loop · ``checkpoint`` files that survive a kill · ``ema`` the average of the weights ·
``evaluation`` COCO AP · ``freezing`` · ``distributed``.
"""
