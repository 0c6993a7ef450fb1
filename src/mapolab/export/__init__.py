"""A finished run as files that diffusers and the usual UIs open."""
