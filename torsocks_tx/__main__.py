"""``python -m torsocks_tx``: the same as ``torsocks-tx``."""

from torsocks_tx.twistd.tap import main

if __name__ == "__main__":
    main()
