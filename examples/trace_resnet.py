"""The graph of a ResNet
=====================

On one batch of digits, by module, with shapes and parameters.

::

    python examples/trace_resnet.py --out graph.svg

The suffix decides: svg, png, pdf, dot, txt.  Pictures need graphviz's dot program; without it the
graph is written as text.
"""

import argparse

import tinyconv as tc
from tinyconv.nn import functional as F, resnet


def main() -> None:
    parser = argparse.ArgumentParser(description="The graph of a ResNet on one batch of digits.")
    parser.add_argument("--out", default="graph.svg", metavar="PATH")
    args = parser.parse_args()

    model = resnet.resnet8()
    images, labels = tc.randn(2, 1, 28, 28), tc.tensor([3, 8])
    loss = F.cross_entropy(model(images), labels)

    graph = tc.trace(loss, model)
    print(graph)  # the same as text, one line per operation
    print("saved", graph.save(args.out))


if __name__ == "__main__":
    main()
