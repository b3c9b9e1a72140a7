"""Is this machine ready to measure? One gate a file; ``gates`` runs them all (GPU-12)."""
