"""`python -m peft_unlearn` is `peft-unlearn`; launchers such as `accelerate launch -m peft_unlearn` use it."""

import sys

from peft_unlearn.cli import main

if __name__ == "__main__":
    sys.exit(main())
