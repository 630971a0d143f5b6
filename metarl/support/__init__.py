"""What every room uses: errors, randomness, threads, files."""
