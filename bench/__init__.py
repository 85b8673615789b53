"""What a stream through torsocks_tx costs, beside what people would use instead."""
