"""Worker images: recipes that are pure functions of what goes in, and the builds that follow them."""
