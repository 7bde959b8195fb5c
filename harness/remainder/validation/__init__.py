"""The benchmark measures itself: controls of known answer, by the command `remainder validate`."""
