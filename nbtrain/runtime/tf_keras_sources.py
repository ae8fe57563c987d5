"""Digests of the functions of tf_keras 2.20 and 2.21 that nbtrain replaces or relies on.

Made by `python -m nbtrain.runtime.tf_keras_sources`, for when a new release was tested.
"""

from __future__ import annotations

_DIGESTS: dict[str, dict[str, str]] = {
    "engine.training:Model.": {
        "make_train_function": "2c98267ffc1c",
        "make_test_function": "c0d12feaac61",
        "train_step": "ba57201087c8",
        "test_step": "0835d1db23d0",
        "fit": "f6cc972c81a0",
        "evaluate": "7665c2d06304",
        "compute_loss": "2c488af5d381",
        "get_metrics_result": "9c274348b9eb",
        "_validate_and_get_metrics_result": "7e420007d6a6",
        "_maybe_load_initial_counters_from_ckpt": "fa3b05cb1c73",
        "_get_test_function_runner": "df6acc3388ac",
    },
    "engine.data_adapter:DataHandler.": {
        "__init__": "5a56b22b2799",
        "_configure_dataset_and_inferred_steps": "b29f05ea7262",
        "enumerate_epochs": "8bd30ce6fbcc",
        "steps": "d8870ad49d13",
        "catch_stop_iteration": "a0d7aa9ec5df",
    },
    "engine.compile_utils:LossesContainer.": {
        "build": "6aae04bfb686",
        "__call__": "b31b88e22493",
    },
    "engine.compile_utils:MetricsContainer.": {
        "build": "2da5be4b7a90",
        "update_state": "905a57836ada",
    },
    "callbacks:CallbackList.": {
        "__init__": "ed0c589494cd",
    },
    "losses:Loss.": {
        "__call__": "6b52149f7c76",
        "_get_reduction": "2582a0c2d1c2",
    },
    "utils.losses_utils:": {
        "scale_loss_for_distribution": "85abae5f16dc",
        "reduce_weighted_loss": "23b41f3e0906",
        "compute_weighted_loss": "ead1f53224dc",
        "apply_valid_mask": "541c072a3c81",
        "apply_mask": "1ce614bf4a8e",
    },
    "utils.metrics_utils:": {
        "result_wrapper": "e266e01cef55",
        "update_state_wrapper": "0960128e93b4",
    },
    "metrics.base_metric:Metric.": {
        "__new__": "e8fe0ab7bd2c",
        "add_weight": "e90d4a581b09",
    },
    "metrics.base_metric:Reduce.": {
        "update_state": "bf10aa0fd05d",
    },
    "metrics.base_metric:MeanMetricWrapper.": {
        "update_state": "2d11fe68ec01",
    },
    "optimizers.optimizer:Optimizer.": {
        "aggregate_gradients": "3ced3e72292a",
        "apply_gradients": "f2bdbc4526fc",
    },
    "optimizers.optimizer:_BaseOptimizer.": {
        "apply_gradients": "6bbaea478d5f",
        "compute_gradients": "6870b9722002",
    },
    "optimizers.legacy.optimizer_v2:OptimizerV2.": {
        "_aggregate_gradients": "60dc3117528e",
        "apply_gradients": "3a754ceba6ea",
    },
    "mixed_precision.loss_scale_optimizer:LossScaleOptimizer.": {
        "get_unscaled_gradients": "aafefe340b94",
        "apply_gradients": "2a6925ccda8d",
    },
    "mixed_precision.loss_scale_optimizer:LossScaleOptimizerV3.": {
        "get_unscaled_gradients": "aafefe340b94",
        "apply_gradients": "e94f9de2bbfd",
    },
    "layers.normalization.batch_normalization:BatchNormalizationBase.": {
        "call": "21ff31ad7975",
        "_moments": "9ac833031732",
        "_fused_batch_norm": "f3928f7068fc",
        "_support_zero_size_input": "1b539d49faea",
        "_assign_moving_average": "840386452dbe",
    },
    "layers.convolutional.base_conv:Conv.": {
        "call": "e3f70c85afdb",
    },
    "layers.convolutional.base_separable_conv:SeparableConv.": {
        "call": "8894d795eeec",
    },
    "layers.convolutional.conv1d_transpose:Conv1DTranspose.": {
        "call": "afcd9a7f103b",
    },
    "layers.convolutional.conv2d_transpose:Conv2DTranspose.": {
        "call": "076c6cbfb420",
    },
    "layers.convolutional.conv3d_transpose:Conv3DTranspose.": {
        "call": "ff86ff0e41c7",
    },
    "layers.convolutional.depthwise_conv1d:DepthwiseConv1D.": {
        "call": "594014510622",
    },
    "layers.convolutional.depthwise_conv2d:DepthwiseConv2D.": {
        "call": "b95515f7e32b",
    },
    "layers.convolutional.separable_conv1d:SeparableConv1D.": {
        "call": "8b91c64f65c8",
    },
    "layers.convolutional.separable_conv2d:SeparableConv2D.": {
        "call": "a1e5be9e5d77",
    },
    "layers.pooling.base_pooling1d:Pooling1D.": {
        "call": "79e0ba4fae75",
    },
    "layers.pooling.base_pooling2d:Pooling2D.": {
        "call": "f4c853d8e53f",
    },
    "layers.pooling.base_pooling3d:Pooling3D.": {
        "call": "8cd947451c64",
    },
    "backend:RandomGenerator.": {
        "make_seed_for_stateless_op": "9d96c17b5bb1",
    },
}

SOURCES = {
    f"tf_keras.src.{owner}{name}": (digest,)
    for owner, digests in _DIGESTS.items()
    for name, digest in digests.items()
}

if __name__ == "__main__":
    from .keras_checks import source_digest

    for _path in SOURCES:
        print(_path, source_digest(_path))
