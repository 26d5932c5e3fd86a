"""What the tab that converts says."""

from __future__ import annotations

from modules.web.language import Text


class Convert:
    """Texts of the tab, in the order of the page."""

    VOICE = Text("1 · Voice", "1 · 音色")
    MODEL = Text("Model", "模型")
    MODEL_HELP = Text(
        "From trained/ (a folder with one model and its config, or one released .safetensors file) or logs/",
        "来自 trained/（每个文件夹一个模型和一个配置，或一个发布用 .safetensors 文件）或 logs/",
    )
    REFRESH = Text("Look again", "刷新")
    NO_MODELS = Text(
        "There is no model yet. Put one into trained/, upload one below, or train one in the last tab.",
        "还没有模型。请把模型放入 trained/，在下面上传，或在最后一个标签页训练。",
    )
    LEFT_OUT = Text("Left out: {problem}", "已忽略：{problem}")
    SPEAKER = Text("Speaker", "说话人")
    SPEAKER_HELP = Text("Who is to sing", "由谁来唱")
    UPLOAD = Text("Upload a model", "上传模型")
    UPLOAD_HELP = Text(
        "The model (.pth or .safetensors) and its config.json; if you like also a diffusion model (.pt, .yaml) and "
        "cluster or index files (.pt, .pkl). Nothing in them is ever run.",
        "模型（.pth 或 .safetensors）和 config.json；也可附上扩散模型（.pt、.yaml）和聚类或索引文件（.pt、.pkl）。"
        "文件中的任何代码都不会被执行。",
    )
    UPLOADED = Text("uploaded: {name}", "已上传：{name}")
    MORE = Text("Diffusion, timbre, device", "扩散、音色检索、设备")
    DIFFUSION = Text("Diffusion", "扩散")
    DIFFUSION_HELP = Text(
        "Refine the result by shallow diffusion, or use that model alone", "用浅扩散改善结果，或只用扩散模型"
    )
    DIFFUSION_MODES = {
        "none": Text("off", "关闭"),
        "shallow": Text("shallow", "浅扩散"),
        "only": Text("alone", "仅扩散"),
    }
    DIFFUSION_MODEL = Text("Diffusion model", "扩散模型")
    DIFFUSION_MODEL_HELP = Text("model_<step>.pt with its config.yaml", "model_<步数>.pt 及其 config.yaml")
    CLUSTER = Text("Cluster or index", "聚类或索引")
    CLUSTER_HELP = Text(
        "Moves the timbre towards the speaker; “Timbre blend” says how far",
        "让音色更接近说话人；程度由“音色混合比例”决定",
    )
    NONE = Text("none", "无")
    AUTOMATIC = Text("the best there is", "自动选择")
    LOAD = Text("Load", "加载")
    UNLOAD = Text("Unload", "卸载")
    LOADING = Text("Loading {name} …", "正在加载 {name} …")
    LOADED = Text(
        "Loaded: {name} · {speakers} · {device} · {precision}", "已加载：{name} · {speakers} · {device} · {precision}"
    )
    NOT_LOADED = Text(
        "No model is loaded; “Convert” loads the chosen one.", "尚未加载模型；点“转换”会自动加载所选模型。"
    )
    UNLOADED = Text("Unloaded; its memory is free.", "已卸载，内存已释放。")

    SONG = Text("2 · Song", "2 · 歌曲")
    FILES = Text("Files", "文件")
    FILES_HELP = Text(
        "Voice only, without accompaniment; several files are done one after the other",
        "只含人声、不含伴奏；多个文件依次处理",
    )
    MICROPHONE = Text("Microphone", "麦克风")
    MICROPHONE_LABEL = Text("Sing or speak", "唱或说")
    SPEECH = Text("Text to speech", "文字转语音")
    SPEECH_TEXT = Text("Text", "文字")
    SPEECH_VOICE = Text("Voice of the speech", "朗读声音")
    SPEECH_RATE = Text("Speed, %", "语速，%")
    SPEECH_MAKE = Text("Speak", "朗读")
    SPEECH_RESULT = Text("Speech", "语音")
    SPEECH_NOTE = Text(
        "The text is sent to Microsoft’s speech service: the only thing here that leaves this machine.",
        "文字会发送到微软的语音服务：这是本页面唯一离开本机的内容。",
    )
    SPEECH_OFFLINE = Text(
        "The speech service cannot be reached, so text to speech does not work now; everything else does.",
        "无法连接语音服务，暂时不能使用文字转语音；其他功能不受影响。",
    )
    SPEECH_MISSING = Text(
        "Text to speech needs a package: pip install edge-tts, then start the page again.",
        "文字转语音需要安装软件包：pip install edge-tts，然后重新启动页面。",
    )
    RANGE_FITS = Text(
        "The song goes from {song}; the voice was trained on {voice}. That fits.",
        "歌曲音域 {song}；音色训练时的音域 {voice}。合适。",
    )
    RANGE_LEAVES = Text(
        "Transposed, the song goes from {song}; the voice was trained on {voice}. Notes outside may sound hoarse.",
        "变调后歌曲音域 {song}；音色训练时的音域 {voice}。超出的音可能沙哑。",
    )
    USE_SHIFT = Text("Transpose by {shift:+d}", "变调 {shift:+d}")

    SETTINGS = Text("3 · Settings", "3 · 设置")
    FORMAT = Text("Format", "格式")
    FORMAT_HELP = Text("Of the file in results/", "results/ 中文件的格式")
    SOUND = Text("Sound", "声音")
    PITCH = Text("Pitch finding", "音高提取")
    CUTTING = Text("Cutting", "切片")
    MIX = Text("Speaker mix over time", "随时间变化的说话人混合")
    MIX_ON = Text("Sing with the mix", "使用混合")
    MIX_ON_HELP = Text(
        "A row is a stretch of one speaker: from and to in percent of the song, weight at its start and at its end. "
        "The stretches of a speaker touch and cover 0 to 100.",
        "每行是一个说话人的一段：起止为歌曲的百分比，以及开头和结尾的权重。各段首尾相接，覆盖 0 到 100。",
    )
    MIX_HEADERS = (
        Text("speaker", "说话人"),
        Text("from %", "起 %"),
        Text("to %", "止 %"),
        Text("weight at start", "开头权重"),
        Text("weight at end", "结尾权重"),
    )
    CONVERT = Text("Convert", "转换")
    CANCEL = Text("Cancel", "取消")
    BUSY = Text("This page is already converting.", "本页面正在转换。")

    WAITING = Text("waiting", "等待中")
    DONE = Text("done in {elapsed:.1f} s", "完成，用时 {elapsed:.1f} 秒")
    FAILED = Text("failed", "失败")
    CANCELLED = Text("cancelled", "已取消")

    RESULT = Text("Result", "结果")
    RESULT_HELP = Text("Of the songs converted on this page", "本页面转换过的歌曲")
    SOURCE = Text("Source", "原曲")
    PICTURE = Text(
        "Spectrograms with the melody: the source above, the result below", "频谱与音高曲线：上为原曲，下为结果"
    )
    SAVED = Text("Saved as {path}", "已保存为 {path}")
    DOWNLOAD = Text("Download {kind}", "下载 {kind}")
    USED = Text("Settings used", "所用设置")
    COMMAND = Text("The same as a command line", "等效的命令行")
    COMMAND_MIX = Text("Put this into spkmix.py first", "请先写入 spkmix.py")
    COMMAND_SONG = Text("Put the song into raw/ first.", "请先把歌曲放入 raw/。")
