"""Domain-coverage augmentation: which public instructions each client should train on as well.

Contract of this folder: embeddings are float32 rows of unit length, so a product is a cosine. A
client computes centroids (``centers``); the server selects one per client (``selection``), searches
the public pool (``index``) and hands out instructions (``augment``); ``coverage`` measures how much
of a domain the clients hold together. Only centroids and maxima against public anchors leave a
client. Paper: "Optimizing Cross-Client Domain Coverage for Federated Instruction Tuning of LLMs",
https://arxiv.org/abs/2409.20135.
"""
