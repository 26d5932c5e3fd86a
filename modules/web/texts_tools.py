"""What the tab with the tools says."""

from __future__ import annotations

from modules.web.language import Text


class Tools:
    """Texts of the tab, in the order of the page."""

    NAME = Text("Name", "名称")
    NAME_HELP = Text("Of the new model in trained/", "trained/ 中新模型的名称")
    MODEL = Text("Model", "模型")
    MODEL_HELP = Text("From trained/, logs/ or uploaded in the first tab", "来自 trained/、logs/ 或在第一个标签页上传")
    WRITTEN = Text("Written: {path}", "已写入：{path}")
    COMMAND = Text("The same as a command line", "等效的命令行")
    FILE = Text("Download", "下载")

    MIX = Text("Mix models", "混合模型")
    MIX_HELP = Text(
        "Makes one model whose weights are the weighted sum of others that were trained with the same config.",
        "把用相同配置训练的多个模型的权重加权求和，得到一个新模型。",
    )
    MIX_MODELS = Text("Models to mix", "要混合的模型")
    MIX_MODELS_HELP = Text("Two or more; each gets a slider", "两个或更多；每个模型一个滑块")
    MIX_MODE = Text("Mode", "模式")
    MIX_MODES = {
        "percent": Text(
            "percent: shares of the whole; 0 leaves a model out", "百分比：占整体的份额；0 表示不使用该模型"
        ),
        "convex": Text(
            "convex: softmax of percent/100, as so-vits-svc 4.1 mixes; no model can be left out",
            "凸组合：对 百分比/100 取 softmax，与 so-vits-svc 4.1 相同；任何模型都不会被排除",
        ),
        "linear": Text(
            "linear: percent/100 as they are; the sum may be more or less than a whole",
            "线性：直接使用 百分比/100；总和可以大于或小于 1",
        ),
    }
    PERCENT = Text("{name}, %", "{name}，%")
    MIX_GO = Text("Mix", "混合")

    COMPRESS = Text("Release a model", "发布模型")
    COMPRESS_HELP = Text(
        "Leaves out what only training needs: about a third of the size. One .safetensors file carries its config.",
        "去掉只有训练才需要的部分，约为原大小的三分之一。.safetensors 单个文件自带配置。",
    )
    HALF = Text("16-bit weights", "16 位权重")
    HALF_HELP = Text("Half the size again", "再减小一半")
    KIND = Text("Format", "格式")
    KINDS = {
        "safetensors": Text("one .safetensors file", "单个 .safetensors 文件"),
        "pth": Text(".pth and config.json in a folder", "文件夹中的 .pth 和 config.json"),
    }
    COMPRESS_GO = Text("Release", "发布")

    ONNX = Text("Export to ONNX", "导出 ONNX")
    ONNX_HELP = Text(
        "Writes graphs to checkpoints/<name>/ for programs that run so-vits-svc graphs, and for converting without "
        "torch. Takes some minutes.",
        "将计算图写入 checkpoints/<名称>/，供运行此类计算图的程序使用，或在没有 torch 的机器上转换。需要几分钟。",
    )
    ONNX_NAME_HELP = Text("Of the folder in checkpoints/", "checkpoints/ 中文件夹的名称")
    ONNX_PARTS = Text("Also export", "同时导出")
    ONNX_PARTS_HELP = Text(
        "encoder and f0 are what converting without torch needs besides", "不用 torch 转换时还需要 encoder 和 f0"
    )
    ONNX_GO = Text("Export", "导出")

    SAFE = Text("Old files to .safetensors", "旧文件转换为 .safetensors")
    SAFE_HELP = Text(
        "Reads a .pth or .pt file (model, clusters, encoder) without running anything in it, and writes it in a format "
        "that cannot carry code. Add the model’s config.json, and the new file carries it.",
        "读取 .pth 或 .pt 文件（模型、聚类、编码器），不执行其中任何代码，并写成不能携带代码的格式。"
        "附上模型的 config.json，新文件就会自带配置。",
    )
    SAFE_FILES = Text("Files", "文件")
    SAFE_GO = Text("Convert", "转换")
