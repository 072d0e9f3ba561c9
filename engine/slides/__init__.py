"""Where pixels come from: slide files, plain images, arrays, at any resolution."""
