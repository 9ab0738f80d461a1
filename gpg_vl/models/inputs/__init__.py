"""A prompt on its way to tensors: chat template, token ids, images and videos, and the tokens that end an answer."""
