"""Digests of the functions that nbtrain replaces or relies on.

Of Keras 3.15 (3.15.0, 3.15.1) and of TensorFlow 2.20 and 2.21. Made by
`python -m nbtrain.runtime.keras_sources`, for when a new release was tested.
"""

from __future__ import annotations

SOURCES: dict[str, tuple[str, ...]] = {
    "keras.src.backend.tensorflow.trainer:TensorFlowTrainer._make_function": ("bb33b7a0da3d",),
    "keras.src.backend.tensorflow.trainer:TensorFlowTrainer.make_train_function": ("a9703da4a49b",),
    "keras.src.backend.tensorflow.trainer:TensorFlowTrainer.make_test_function": ("ad5e9155b929",),
    "keras.src.backend.tensorflow.trainer:TensorFlowTrainer.make_predict_function": (
        "a772a2efdd90",
    ),
    "keras.src.backend.tensorflow.trainer:TensorFlowTrainer._maybe_symbolic_build": (
        "92a504f5eba9",
    ),
    "keras.src.backend.tensorflow.trainer:TensorFlowTrainer.train_step": ("debf0efab9d5",),
    "keras.src.backend.tensorflow.trainer:TensorFlowTrainer.test_step": ("a8f04a25512e",),
    "keras.src.backend.tensorflow.trainer:TensorFlowTrainer.fit": ("a9a6dc02a7dd",),
    "keras.src.backend.tensorflow.trainer:TensorFlowTrainer.evaluate": ("a1facf652816",),
    "keras.src.backend.tensorflow.trainer:TensorFlowTrainer._autoconvert_optionals": (
        "693fcdb15f95",
    ),
    "keras.src.backend.tensorflow.trainer:TensorFlowTrainer._aggregate_additional_loss": (
        "3e9ee641327e",
    ),
    "keras.src.backend.tensorflow.trainer:TFEpochIterator.__init__": ("901af2700297",),
    "keras.src.backend.tensorflow.trainer:TFEpochIterator.catch_stop_iteration": ("d8f649ef492b",),
    "keras.src.backend.tensorflow.trainer:TFEpochIterator._get_iterator": ("b986aa8a9d22",),
    "keras.src.trainers.epoch_iterator:EpochIterator.__init__": ("5b15c9c9f4e5",),
    "keras.src.trainers.epoch_iterator:EpochIterator._enumerate_iterator": ("376e3e16a928",),
    "keras.src.trainers.epoch_iterator:EpochIterator.catch_stop_iteration": ("494549649577",),
    "keras.src.trainers.epoch_iterator:EpochIterator.reset": ("b73c9f2daadc",),
    "keras.src.trainers.trainer:Trainer._get_metrics_result_or_logs": ("1c7ab4a2c8e6",),
    "keras.src.trainers.trainer:Trainer.get_metrics_result": ("89f313bc35c1",),
    "keras.src.trainers.trainer:Trainer._symbolic_build": ("96220cc3b88f",),
    "keras.src.trainers.trainer:Trainer.metrics.fget": ("4a85cfc21fb9",),
    "keras.src.trainers.compile_utils:CompileLoss.call": ("402aaf05f91c",),
    "keras.src.trainers.compile_utils:CompileMetrics.update_state": ("75fad85bf74f",),
    "keras.src.trainers.compile_utils:CompileMetrics.result": ("b59a450dfa96",),
    "keras.src.trainers.compile_utils:CompileMetrics.metrics.fget": ("4efc1355e84b",),
    "keras.src.callbacks.callback_list:CallbackList.__init__": ("5d0d38afece9",),
    "keras.src.losses.loss:Loss.__call__": ("f42c42282ee8",),
    "keras.src.losses.loss:reduce_values": ("60b046214772",),
    "keras.src.losses.loss:apply_mask": ("61d8938cd866",),
    "keras.src.losses.loss:reduce_weighted_values": ("1976df12ea19",),
    "keras.src.losses.loss:scale_loss_for_distribution": ("143cd8a5efb6",),
    "keras.src.losses.loss:unscale_loss_for_distribution": ("3903c7ed7f69",),
    "keras.src.metrics.reduction_metrics:Mean.update_state": ("addc194e254f",),
    "keras.src.metrics.reduction_metrics:MeanMetricWrapper.update_state": ("1763e0dd65d0",),
    "keras.src.metrics.reduction_metrics:reduce_to_samplewise_values": ("46aacc7892d4",),
    "keras.src.metrics.reduction_metrics:Sum.update_state": ("c378d5550155",),
    "keras.src.metrics.metric:Metric.add_variable": ("3bc628b9d872",),
    "keras.src.metrics.metric:Metric.stateless_reset_state": ("2502e584ef47",),
    "keras.src.optimizers.base_optimizer:BaseOptimizer.apply": ("43097be63b91",),
    "keras.src.optimizers.base_optimizer:BaseOptimizer.apply_gradients": ("d6487cf01422",),
    "keras.src.optimizers.base_optimizer:BaseOptimizer._backend_apply_gradients": ("48d6e24d5803",),
    "keras.src.optimizers.loss_scale_optimizer:LossScaleOptimizer.apply": ("1cc61fb4c21e",),
    "keras.src.optimizers.loss_scale_optimizer:LossScaleOptimizer._common_apply": ("4bb166c7e690",),
    "keras.src.optimizers.loss_scale_optimizer:LossScaleOptimizer._tf_apply": ("e702c4db1a06",),
    "keras.src.backend.tensorflow.optimizer:TFOptimizer._all_reduce_sum_gradients": (
        "953512efa56c",
    ),
    "keras.src.backend.tensorflow.optimizer:TFOptimizer._backend_update_step": ("00bd759c099a",),
    "keras.src.random.seed_generator:SeedGenerator.next": ("d2174a08ab35",),
    "keras.src.layers.normalization.batch_normalization:BatchNormalization.call": ("31502bd832c5",),
    "keras.src.layers.normalization.batch_normalization:BatchNormalization._moments": (
        "2ba739b46f4f",
    ),
    "keras.src.backend.tensorflow.nn:conv": ("1bae7c0469d4",),
    "keras.src.backend.tensorflow.nn:depthwise_conv": ("492c94d51f85",),
    "keras.src.backend.tensorflow.nn:separable_conv": ("d163319653f9",),
    "keras.src.backend.tensorflow.nn:conv_transpose": ("8b0f43bf39e1",),
    "keras.src.backend.tensorflow.nn:max_pool": ("09ec46720e6f",),
    "keras.src.backend.tensorflow.nn:average_pool": ("dee19c15732b",),
    "keras.src.backend.tensorflow.nn:adaptive_max_pool": ("429dd27f8f14",),
    "keras.src.backend.tensorflow.nn:adaptive_average_pool": ("6641191e068f",),
}

TENSORFLOW_SOURCES: dict[str, tuple[str, ...]] = {
    "tensorflow.python.eager.backprop:GradientTape.gradient": ("9b8697dadc28",),
    "tensorflow.python.ops.nn_impl_distribute:compute_average_loss": ("3683ca7a96dd",),
    "tensorflow.python.ops.nn_impl_distribute:scale_regularization_loss": ("2adedb87d513",),
    "tensorflow.python.distribute.values:apply_aggregation_replica_context": ("c0cd5dacffab",),
    "tensorflow.python.distribute.collective_all_reduce_strategy"
    ":CollectiveAllReduceExtended._use_merge_call": ("7327ed51cbaf",),
    "tensorflow.python.distribute.collective_all_reduce_strategy"
    ":CollectiveAllReduceExtended._replica_ctx_all_reduce": ("d228b2ac8e47",),
    "tensorflow.python.distribute.input_lib"
    ":DistributedDataset._create_cloned_datasets_from_dataset": ("297a6a657a51",),
    "tensorflow.python.data.ops.interleave_op:_ParallelInterleaveDataset.__init__": (
        "427ab8c90852",
    ),
}

if __name__ == "__main__":
    from .keras_checks import source_digest

    for _path in (*SOURCES, *TENSORFLOW_SOURCES):
        print(_path, source_digest(_path))
