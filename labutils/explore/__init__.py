"""Latent spaces to touch: sliders, panels, a map, a page without Python."""
