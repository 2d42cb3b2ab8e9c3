"""Make the checkpoints of this folder with TensorFlow 1.14 on Python 3.7.

    python make.py FOLDER

The tests read the files and never run this script.
"""

import os
import sys

import numpy as np
import tensorflow as tf
from tensorflow.core.protobuf import saver_pb2

D, N = 3, 4
EXPECTED = {}


def make_cell(scope, dtype=tf.float32, partitioner=None):
    """Build a cell in a new graph."""
    tf.reset_default_graph()
    tf.set_random_seed(len(EXPECTED) + 1)
    with tf.variable_scope("rnn", partitioner=partitioner):
        cell = tf.contrib.rnn.IndyGRUCell(N, name=scope, dtype=dtype)
        cell.build((None, D))
    return cell


def start_session():
    """Return a session in which all variables are initialised."""
    session = tf.Session()
    session.run(tf.global_variables_initializer())
    return session


def record_values(session, checkpoint, variables):
    """Record values for `expected.npz`: of the six variables, or of tensors in their place, by short names."""
    for name, value in variables.items():
        EXPECTED[checkpoint + ":" + name] = session.run(tf.convert_to_tensor(value))


def by_short_name(cell):
    """Return the variables by names such as "gates/kernel_w"."""
    return {"/".join(v.op.name.split("/")[-2:]): v for v in cell.variables}


def save_with_colons():
    cell = make_cell("cell")
    with start_session() as session:
        tf.train.Saver({v.name: v for v in cell.variables}).save(session, "colon.ckpt", write_meta_graph=False)
        record_values(session, "colon", by_short_name(cell))


def save_renamed():
    cell = make_cell("cell")
    names = {v: "old/" + v.op.name.split("/", 2)[2].replace("/", "_") for v in cell.variables}
    with start_session() as session:
        tf.train.Saver({names[v]: v for v in cell.variables}).save(session, "renamed.ckpt", write_meta_graph=False)
        record_values(session, "renamed", by_short_name(cell))


def save_half():
    cell = make_cell("cell", tf.float16)
    with start_session() as session:
        tf.train.Saver().save(session, "half.ckpt", write_meta_graph=False)
        record_values(session, "half", by_short_name(cell))


def save_averages():
    cell = make_cell("cell")
    average = tf.train.ExponentialMovingAverage(0.5)
    step = average.apply(cell.variables)
    with start_session() as session:
        session.run([tf.assign_add(v, tf.ones_like(v)) for v in cell.variables])
        session.run(step)
        tf.train.Saver().save(session, "averages.ckpt", write_meta_graph=False)
        record_values(session, "averages", {name: average.average(v) for name, v in by_short_name(cell).items()})


def save_object_based():
    cell = make_cell("cell")
    optimizer = tf.train.AdamOptimizer()
    train = optimizer.minimize(tf.add_n([tf.reduce_sum(v**2) for v in cell.variables]))
    checkpoint = tf.train.Checkpoint(cell=cell, optimizer=optimizer)
    with start_session() as session:
        session.run(train)
        checkpoint.write("object.ckpt", session)
        record_values(session, "object", by_short_name(cell))


def partition(shape, dtype):
    """Return the number of parts by axis: two parts of each variable, along the first axis that can be split."""
    sizes = [1] * len(shape)
    sizes[next(i for i, size in enumerate(shape) if size > 1)] = 2
    return sizes


def save_partitioned():
    make_cell("cell", partitioner=partition)
    variables, parts = tf.global_variables(), {}
    with tf.variable_scope("rnn", partitioner=lambda shape, dtype: [3]):
        wide = tf.get_variable("wide", (300,), tf.float16)
    for v in variables:
        parts.setdefault("/".join(v.op.name.split("/")[2:4]), []).append(v)
    whole = {name: tf.concat(values, 1 if name.endswith("_u") else 0) for name, values in parts.items()}
    with start_session() as session:
        tf.train.Saver().save(session, "partitioned.ckpt", write_meta_graph=False)
        record_values(session, "partitioned", dict(whole, wide=wide))
        names = {v.op.name: v for v in variables}
        tf.train.Saver(names).save(session, "parts.ckpt", write_meta_graph=False)
        record_values(session, "parts", whole)


def save_v1():
    make_cell("cell")
    with start_session() as session:
        saver = tf.train.Saver(write_version=saver_pb2.SaverDef.V1)
        saver.save(session, "v1.ckpt", write_meta_graph=False)


if __name__ == "__main__":
    os.chdir(sys.argv[1])
    save_v1()
    save_with_colons()
    save_renamed()
    save_half()
    save_averages()
    save_object_based()
    save_partitioned()
    np.savez_compressed("expected.npz", **EXPECTED)
    for checkpoint in ("colon", "renamed", "half", "averages", "object", "partitioned", "parts"):
        print(checkpoint, tf.train.list_variables(checkpoint + ".ckpt"))
