"""What the tab that prepares recordings and trains says."""

from __future__ import annotations

from modules.data.recordings_report import MEANINGS
from modules.web.language import Text


class Prepare:
    """Texts of the tab, in the order of the page."""

    MODEL = Text("Name of the model", "模型名称")
    MODEL_HELP = Text(
        "Its folder in logs/. Another name starts another voice, with files of its own.",
        "即 logs/ 下的文件夹名。换一个名称就是另一个声音，文件互不影响。",
    )
    IDLE = Text("Nothing is running for {model}.", "{model} 当前没有任务在运行。")
    OTHER = Text("{model} is being worked on: {step}.", "正在处理 {model}：{step}。")
    LEFT = Text("about {left} left", "约剩 {left}")
    FOR = Text("for {elapsed}", "已用时 {elapsed}")
    LIVES_ON = Text("It goes on when this page is closed or the server ends.", "关闭页面或停止服务器后，任务仍会继续。")
    STOP = Text("Stop and save", "停止并保存")
    STOP_AGAIN = Text("Stop without saving", "不保存直接停止")
    STOP_KILL = Text("Kill", "强制结束")
    STOP_ASKED = Text(
        "It is told to save and end. The step it is at is finished first.", "已通知其保存并结束，会先完成当前这一步。"
    )
    NOTHING_TO_STOP = Text("Nothing is running.", "没有正在运行的任务。")

    RECORDINGS = Text("1 · Recordings", "1 · 录音")
    SPEAKERS = Text("Speakers", "说话人")
    SPEAKERS_HELP = Text(
        "The folders in dataset_raw/ and their files. Several speakers make one model that sings with any of them.",
        "dataset_raw/ 下的文件夹及其文件数。选择多个说话人会训练出一个可任选其声的模型。",
    )
    NO_SPEAKERS = Text(
        "dataset_raw/ holds no recordings yet. Upload some, or put one folder for each speaker there.",
        "dataset_raw/ 里还没有录音。请上传，或在其中为每个说话人放一个文件夹。",
    )
    SPEAKER_FILES = Text("{name} ({count})", "{name}（{count} 个）")
    REFRESH = Text("Look again", "刷新")
    UPLOAD = Text("Upload recordings", "上传录音")
    UPLOAD_SPEAKER = Text("Speaker", "说话人")
    UPLOAD_SPEAKER_HELP = Text("Short, of A-Z a-z 0-9", "建议用简短的英文字母或数字")
    UPLOAD_FILES = Text("Recordings: a clean voice, without accompaniment", "录音：干净的人声，不带伴奏")
    UPLOAD_ADD = Text("Add to dataset_raw/", "加入 dataset_raw/")
    UPLOADED = Text("{count} file(s) of {speaker} added.", "已为 {speaker} 加入 {count} 个文件。")
    UPLOAD_SAME = Text("{count} file(s) were there already.", "{count} 个文件已存在。")
    CONSENT = Text("Only train on voices whose owners agreed to it.", "只使用声音主人已同意的录音进行训练。")
    LOOK = Text("Examine the recordings", "检查录音")
    LOOK_HELP = Text(
        "Minutes, pitch, loudness and what is wrong with which file. Nothing is changed.",
        "统计时长、音高、响度，并指出有问题的文件。不会改动任何文件。",
    )
    REPORT_OF = Text("Report of {time}", "{time} 的报告")
    NO_PROBLEMS = Text("No problems were found.", "没有发现问题。")
    MORE_FILES = Text("and {count} more", "等共 {count} 个以上")
    COLUMNS = (
        Text("speaker", "说话人"),
        Text("files", "文件"),
        Text("minutes", "分钟"),
        Text("of sound", "有声分钟"),
        Text("clips", "片段"),
        Text("f0 low – middle – high, Hz", "音高 低–中–高，Hz"),
        Text("loudness, LUFS", "响度，LUFS"),
        Text("silence", "静音"),
        Text("clipped files", "削波文件"),
        Text("over noise, dB", "信噪比，dB"),
        Text("kHz", "kHz"),
    )

    STEPS = Text("2 · Steps", "2 · 步骤")
    STEPS_HELP = Text(
        "The commands are those of the command line; either may go on where the other stopped.",
        "这里执行的命令与命令行相同；两种方式可以互相接续。",
    )
    RUN = Text("Run", "运行")
    RUN_ALL = Text("Run steps 1 to 4", "依次运行第 1 到 4 步")
    COMMAND = Text("Command", "命令")
    SLICE = Text("Cut into clips of 5 to 15 s", "切成 5 到 15 秒的片段")
    LOUDNORM = Text("Level", "响度")
    LOUDNORM_HELP = Text("lufs evens out recordings of different loudness", "lufs 可统一响度不同的录音")
    LOUDNORMS = {
        "peak": Text("peak to full scale", "峰值归一"),
        "lufs": Text("same loudness (LUFS)", "统一响度（LUFS）"),
        "none": Text("as recorded", "保持原样"),
    }
    ENCODER = Text("Speech encoder", "语音编码器")
    ENCODER_HELP = Text("vec768l12 (ContentVec) is the usual one", "一般使用 vec768l12（ContentVec）")
    SIZE = Text("Size of the model", "模型大小")
    SIZE_HELP = Text("micro trains without a GPU", "micro 可在没有显卡时训练")
    SIZES = {
        "full": Text("full", "标准 full"),
        "tiny": Text("tiny", "小型 tiny"),
        "micro": Text("micro", "微型 micro"),
    }
    VOL_AUG = Text("Follow the loudness of the song", "跟随歌曲响度")
    VOL_AUG_HELP = Text("--vol_aug: the model hears how loud each moment is", "--vol_aug：模型会接收每一时刻的响度")
    PREDICTOR = Text("Pitch predictor", "音高预测器")
    PREDICTOR_HELP = Text("rmvpe is the most robust; fcpe needs no file", "rmvpe 最稳定；fcpe 不需要下载文件")
    PROCESSES = Text("Processes", "进程数")
    PROCESSES_HELP = Text("0 is one a core", "0 表示每个核心一个")
    USE_DIFF = Text("Also for shallow diffusion", "同时为浅扩散准备")
    USE_DIFF_HELP = Text("--use_diff; needs the NSF-HiFiGAN vocoder", "--use_diff；需要 NSF-HiFiGAN 声码器")
    WEIGHTS_THERE = Text("Weights: {names} there.", "预训练权重：{names} 已就绪。")
    WEIGHTS_MISSING = Text(
        "Weights missing: {names}. “Fetch” downloads them from their publishers (about {size} MB).",
        "缺少预训练权重：{names}。点“下载”会从发布者处下载（约 {size} MB）。",
    )
    FETCH = Text("Fetch", "下载")
    DEVICE = Text("Device", "设备")
    DEVICE_HELP = Text("Empty: the best there is. Or cpu, cuda:1, mps", "留空自动选择；或填 cpu、cuda:1、mps")
    PRECISION = Text("Precision", "精度")
    PRECISION_HELP = Text("bf16 saves memory on recent GPUs", "较新的显卡用 bf16 可省显存")
    COMPILE = Text("Compile the decoder", "编译解码器")
    COMPILE_HELP = Text("A slow start, faster steps", "启动较慢，之后更快")
    MAX_STEPS = Text("End at step", "到第几步结束")
    MAX_MINUTES = Text("End after minutes", "几分钟后结束")
    NO_LIMIT = Text("Empty: no limit", "留空不限制")
    CONFIG = Text("Settings in {path}", "{path} 中的设置")
    CONFIG_MISSING = Text("Run step 2 first: it writes the config.", "请先运行第 2 步，它会生成配置文件。")
    BATCH = Text("Batch size", "批大小")
    BATCH_HELP = Text("As large as the memory allows", "在显存允许范围内尽量大")
    RATE = Text("Learning rate", "学习率")
    EVAL = Text("Save and listen every … steps", "每多少步保存并试听")
    LOG = Text("Write a line every … steps", "每多少步记录一次")
    KEEP = Text("Checkpoints to keep", "保留的存档数")
    KEEP_HELP = Text("0 keeps all; each is large", "0 表示全部保留；每个都很大")
    SAVE = Text("Save", "保存")
    SAVED = Text("Written to {path}; the next start of training heeds it.", "已写入 {path}，下次开始训练时生效。")

    WATCH = Text("3 · Watch and listen", "3 · 观察与试听")
    NO_CURVES = Text(
        "Curves appear here when training has begun. Start step 4.", "训练开始后这里会显示曲线。请启动第 4 步。"
    )
    STEP_NOW = Text(
        "Step {step}, epoch {epoch}, {time} of training, {speed} steps/s",
        "第 {step} 步，第 {epoch} 轮，已训练 {time}，{speed} 步/秒",
    )
    BEST = Text("best {value} at step {step}", "最佳 {value}，第 {step} 步")
    CURVES = {
        "val/mel_distance": Text("Distance to held-out clips: lower is better", "与验证片段的距离：越低越好"),
        "loss/g/mel": Text("Mel loss", "Mel 损失"),
        "loss/g/kl": Text("KL loss", "KL 损失"),
        "loss/d/total": Text("Discriminator", "判别器"),
        "train/loss": Text("Diffusion loss", "扩散损失"),
        "val/loss": Text("Diffusion, held-out clips", "扩散，验证片段"),
    }
    LISTEN = Text("Listen to the newest", "试听最新结果")
    LISTEN_HELP = Text(
        "Held-out clips: the recording, and the model singing the same. Conversions cannot be better than this.",
        "验证片段：左为录音，右为模型演唱同一段。转换效果不会好于这里。",
    )
    NOTHING_TO_HEAR = Text("There is nothing to listen to yet.", "还没有可试听的内容。")
    RECORDED = Text("Recording {number}", "录音 {number}")
    SUNG = Text("Model at step {step}", "模型，第 {step} 步")

    EXTRAS = Text("4 · Afterwards", "4 · 之后")
    CHECKPOINT = Text("Checkpoint", "存档")
    HALF = Text("16-bit weights", "16 位权重")
    HALF_HELP = Text("Half the size", "体积减半")

    LOG_OF = Text("What it prints", "输出")
    NO_LOG = Text("nothing yet", "暂无")


class Steps:
    """Titles of the steps and what each is for."""

    TITLES = {
        "report": Text("Examine the recordings", "检查录音"),
        "resample": Text("Step 1 · Cut and resample", "第 1 步 · 切片与重采样"),
        "lists": Text("Step 2 · File lists and configs", "第 2 步 · 文件列表与配置"),
        "weights": Text("Fetch pretrained weights", "下载预训练权重"),
        "features": Text("Step 3 · Features", "第 3 步 · 特征"),
        "train": Text("Step 4 · Train", "第 4 步 · 训练"),
        "index": Text("Feature index", "特征检索索引"),
        "cluster": Text("Clusters", "聚类"),
        "train_diff": Text("Shallow diffusion", "浅扩散"),
        "release": Text("Release to trained/", "发布到 trained/"),
    }
    HELP = {
        "resample": Text(
            "Recordings to 44.1 kHz mono clips in {dataset}", "把录音变成 {dataset} 中的 44.1 kHz 单声道片段"
        ),
        "lists": Text("Who trains, who validates, and how large the model is", "划分训练与验证片段，并决定模型大小"),
        "features": Text(
            "What is sung, the melody and the spectrum of each clip; made once",
            "提取每个片段的内容、旋律与频谱；只需一次",
        ),
        "train": Text(
            "Hours on a GPU. Stopping saves; starting again goes on. A base model saves most of the time: G_0.pth and "
            "D_0.pth in {logs}, else the one in pretrain/base for whisper-ppg-base and the size micro.",
            "需用显卡训练数小时。停止会保存，再次启动会接着训练。"
            "底模可节省大部分时间：{logs} 里的 G_0.pth 和 D_0.pth，"
            "否则用 pretrain/base 里的（适用于 whisper-ppg-base 和 micro）。",
        ),
        "index": Text("A timbre nearer to the target, with clear words (-fr)", "让音色更接近目标且吐字清晰（-fr）"),
        "cluster": Text("The same with k-means centres (-cr)", "同上，用 k-means 聚类中心（-cr）"),
        "train_diff": Text(
            "Trains the model that refines a result (-shd). Run step 3 with “Also for shallow diffusion” first.",
            "训练用于改善结果的扩散模型（-shd）。请先在第 3 步勾选“同时为浅扩散准备”。",
        ),
        "release": Text(
            "One file without what only training needs, where the tab “Convert” finds it",
            "生成一个不含训练数据的文件，“转换”标签页可直接使用",
        ),
    }
    STATES = {
        "never": Text("not run yet", "尚未运行"),
        "waiting": Text("waiting", "等待中"),
        "running": Text("running", "运行中"),
        "stopping": Text("saving and ending", "正在保存并结束"),
        "done": Text("done", "完成"),
        "some_failed": Text("done, some files left out: see below", "完成，部分文件被略过：见下方输出"),
        "stopped": Text("stopped; run it again to go on", "已停止；再次运行即可继续"),
        "failed": Text("failed: see below", "失败：见下方输出"),
        "skipped": Text("did not run: the step before it did not end well", "未运行：前一步没有正常结束"),
        "lost": Text("was cut off; run it again to go on", "意外中断；再次运行即可继续"),
    }
    OUTDATED = Text("older than the step before it: run it again", "早于前一步的结果：请重新运行")


class Problems:
    """What the report finds; the English is that of the command line."""

    KINDS = {
        "unreadable": Text(MEANINGS["unreadable"], "无法使用：{}"),
        "not_finite": Text(MEANINGS["not_finite"], "含有 {} 个无效采样值（NaN），请重新导出"),
        "silent": Text(MEANINGS["silent"], "全是静音"),
        "too_short": Text(MEANINGS["too_short"], "只有 {}；短于 0.3 秒的片段会被略过"),
        "duplicate": Text(MEANINGS["duplicate"], "内容与 {} 相同，保留一个即可"),
        "out_of_phase": Text(
            MEANINGS["out_of_phase"], "左右声道相互抵消：合成单声道后低了 {}；请反转其中一个声道的相位"
        ),
        "clipped": Text(MEANINGS["clipped"], "有削波（占采样的 {}）；请降低增益重新录制"),
        "quiet": Text(MEANINGS["quiet"], "音量很低（{}），放大后噪声也会变大"),
        "noisy": Text(MEANINGS["noisy"], "噪声较大：人声只比背景高 {}"),
        "low_rate": Text(MEANINGS["low_rate"], "采样率只有 {}：缺少高频，训练出的声音也会缺少高频"),
        "mostly_silent": Text(MEANINGS["mostly_silent"], "大部分是静音（{}）"),
        "unvoiced": Text(MEANINGS["unvoiced"], "几乎没有音高（只占声音的 {}）；确定是纯人声吗？"),
        "little_sound": Text(MEANINGS["little_sound"], "有声部分只有 {}；十分钟可用，半小时更好"),
        "uneven": Text(MEANINGS["uneven"], "文件之间响度相差 {}；选择“统一响度”可以拉平"),
    }
