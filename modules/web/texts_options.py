"""The settings of a conversion in words. English help is that of modules/inference/options.py, the one place for it."""

from __future__ import annotations

from typing import Any

from modules.inference.options import InferenceOptions, ModelOptions
from modules.options import settings
from modules.web.language import Text

LABELS: dict[str, Text] = {
    "device": Text("Device", "设备"),
    "precision": Text("Precision", "数值精度"),
    "enhance": Text("Enhancer", "增强器"),
    "trans": Text("Transpose", "变调"),
    "auto_predict_f0": Text("Predict the pitch", "自动预测音高"),
    "f0_predictor": Text("Pitch finder", "音高提取器"),
    "f0_filter_threshold": Text("Voicing threshold", "清浊阈值"),
    "f0_min": Text("Lowest pitch", "最低音高"),
    "f0_max": Text("Highest pitch", "最高音高"),
    "clip": Text("Forced clips", "强制切片"),
    "linear_gradient": Text("Overlap of clips", "切片重叠"),
    "linear_gradient_retain": Text("Cross-faded share", "交叉淡化比例"),
    "slice_db": Text("Silence below", "静音阈值"),
    "pad_seconds": Text("Padding", "填充"),
    "noise_scale": Text("Variation", "随机变化"),
    "loudness_envelope_adjustment": Text("Loudness", "响度包络"),
    "cluster_infer_ratio": Text("Timbre blend", "音色混合比例"),
    "k_step": Text("Diffusion steps", "扩散步数"),
    "second_encoding": Text("Second encoding", "二次编码"),
    "enhancer_adaptive_key": Text("Key of the enhancer", "增强器适应音高"),
    "seed": Text("Seed", "随机种子"),
}

CHINESE_HELP: dict[str, str] = {
    "device": "cpu、cuda、cuda:1、mps；留空则选用最好的设备",
    "precision": "网络的数值格式；auto 选用又快又好的格式",
    "enhance": "用 NSF-HiFiGAN 增强器处理结果",
    "trans": "音高移动，单位：半音",
    "auto_predict_f0": "由模型预测音高；适合说话，不适合唱歌",
    "f0_predictor": "用哪种方法提取音高",
    "f0_filter_threshold": "crepe、rmvpe、fcpe 低于该置信度视为清音；留空则用适合该模型的值，原版为 0.05",
    "f0_min": "查找的最低音高，单位：Hz",
    "f0_max": "查找的最高音高，单位：Hz",
    "clip": "每隔多少秒切一次；0 表示由程序决定",
    "linear_gradient": "强制切片之间的重叠，单位：秒",
    "linear_gradient_retain": "重叠部分中交叉淡化所占的比例",
    "slice_db": "低于该响度视为静音，单位：dB；有噪声的歌用 -30，气声多的用 -50",
    "pad_seconds": "在每段前后加入、转换后再切掉的静音，单位：秒",
    "noise_scale": "模型在咬字和音色上的变化幅度",
    "loudness_envelope_adjustment": "0 保持原曲的响度，1 使用模型的响度",
    "cluster_infer_ratio": "聚类中心或检索特征所占的比例",
    "k_step": "浅扩散的步数",
    "second_encoding": "浅扩散之前对结果再编码一次",
    "enhancer_adaptive_key": "提高增强器的音域，单位：半音",
    "seed": "相同的种子得到相同的声音",
}


def _english_help() -> dict[str, str]:
    kinds: tuple[type[Any], ...] = (ModelOptions, InferenceOptions)
    return {field.name: setting.help for kind in kinds for field, setting in settings(kind)}


HELP: dict[str, Text] = {name: Text(_english_help()[name], chinese) for name, chinese in CHINESE_HELP.items()}
