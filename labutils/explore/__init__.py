"""Interactive latent spaces: sliders, panels, a map, a page without Python."""
