"""Results beside torch or scikit-learn, in turns on one thread and at once on two.

Arguments: "torch" or "sklearn", and whether it is imported "before" or "after" indygru_cpu.
"""

from __future__ import annotations

import importlib
import sys
import threading

name, order = sys.argv[1:]
if order == "before":
    importlib.import_module(name)
layers = importlib.import_module("concurrent_layers")


def torch_result():
    torch = importlib.import_module("torch")
    torch.set_num_threads(2)
    return float(torch.ones(2000, 2000).cumsum(0).exp().sum())


def sklearn_result():
    cluster = importlib.import_module("sklearn.cluster")
    return float(cluster.KMeans(3, n_init=1, random_state=0).fit(layers.x[:, 0]).inertia_)


library_result = {"torch": torch_result, "sklearn": sklearn_result}[name]
expected, library_expected = layers.all_results(1), library_result()
matches = [layers.all_results(2) == expected and library_result() == library_expected for _ in range(3)]
thread = threading.Thread(target=lambda: [matches.append(library_result() == library_expected) for _ in range(5)])
thread.start()
matches += [layers.all_results(2) == expected for _ in range(5)]
thread.join()
print(len(matches), all(matches))
