"""Run every stage from Python in place of the command line, and read the result.

    raylabel generate --out runs/generated
    python examples/run_from_python.py configs/demo.yaml --out runs/from-python

After an interruption the same call resumes. It skips what is finished.
"""

import argparse
from collections import Counter

import raylabel as rl


def main(arguments: list[str] | None = None) -> None:
    """Check the config, run it, and print AP and the number of pseudo-labels per class."""
    parser = argparse.ArgumentParser(description="Run every stage of a config from Python.")
    parser.add_argument("config", help="YAML file")
    parser.add_argument("--out", required=True, help="run folder or URI")
    options = parser.parse_args(arguments)
    try:
        config = rl.load_config(options.config, {"seed": "0"})
        found = rl.check(config, options.out)  # reads all data, spends nothing
        print(f"{found['splits']['labelled']['num_images']} labelled images, {found['pool']['num_images']} in the pool")
        rl.run_pipeline(config, options.out)
    except rl.InputError as error:  # one line that says what is wrong, and where
        parser.error(str(error))

    run = rl.Run(options.out)
    for arm, figures in run.metrics["validation"].items():
        print(f"{arm}: AP {100 * figures['AP']:.1f}")
    counts: Counter[str] = Counter()
    for batch in run.pseudo_labels():
        for instances in batch["instances"].to_pylist():
            counts.update(run.classes.names[one["class_index"]] for one in instances)
    for name, num in counts.most_common():
        print(f"{name}: {num} pseudo-labels")


if __name__ == "__main__":
    main()
