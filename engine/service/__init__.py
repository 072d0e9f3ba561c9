"""The local server: windows by the Open Inference Protocol, slides while they are scanned, jobs for slides on disk."""
