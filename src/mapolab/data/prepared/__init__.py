"""The prepared cache: every image and prompt of a data set encoded once, and kept in memory-mapped shards.

    scan     captions, labels and image ids of all rows, as hashes          scan/00000.safetensors ...
    plan     what is different among them, cut into shards                  (a function of the scan)
    shards   latents of 128 images or more, embeddings of 256 prompts       images/00000.safetensors ... prompts/...
    finish   which row has which image and prompt                           rows.safetensors, manifest.json

Each file is a unit of work of a fixed composition, written atomically: it does not matter which process makes it, or
how often the work is interrupted, the bytes come out the same.
"""
