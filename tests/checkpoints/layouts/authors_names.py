"""Names of tensors of transformers' models, as patterns, and the names in the authors' files."""

from collections.abc import Sequence
from typing import Any

Names = Sequence[tuple[str, Any]]
"""Patterns of transformers' names, and the authors'."""

SEGFORMER = [
    (r"encoder\.patch_embeddings\.(\d)\.proj", lambda m: f"patch_embed{int(m[1]) + 1}.proj"),
    (r"encoder\.patch_embeddings\.(\d)\.layer_norm", lambda m: f"patch_embed{int(m[1]) + 1}.norm"),
    (r"encoder\.block\.(\d)\.", lambda m: f"block{int(m[1]) + 1}."),
    (r"encoder\.layer_norm\.(\d)\.", lambda m: f"norm{int(m[1]) + 1}."),
    (r"layer_norm_(\d)", r"norm\1"),
    (r"attention\.self\.query", "attn.q"),
    (r"attention\.output\.dense", "attn.proj"),
    (r"attention\.self\.sr", "attn.sr"),
    (r"attention\.self\.layer_norm", "attn.norm"),
    (r"mlp\.dense(\d)", r"mlp.fc\1"),
    (r"^segformer\.", "backbone."),
    (r"linear_c\.(\d)", lambda m: f"linear_c{int(m[1]) + 1}"),
    (r"linear_fuse", "linear_fuse.conv"),
    (r"decode_head\.batch_norm", "decode_head.linear_fuse.bn"),
    (r"decode_head\.classifier", "decode_head.linear_pred"),
]
EOMT = [
    (r"^embeddings\.cls_token", "network.encoder.backbone.cls_token"),
    (r"^embeddings\.register_tokens", "network.encoder.backbone.reg_token"),
    (r"^embeddings\.position_embeddings\.weight", "network.encoder.backbone.pos_embed"),
    (r"^embeddings\.patch_embeddings\.projection", "network.encoder.backbone.patch_embed.proj"),
    (r"^layers\.(\d)\.attention\.out_proj", r"network.encoder.backbone.blocks.\1.attn.proj"),
    (r"^layers\.(\d)\.attention\.", r"network.encoder.backbone.blocks.\1.attn."),
    (r"^layers\.(\d)\.layer_scale(\d)\.lambda1", r"network.encoder.backbone.blocks.\1.ls\2.gamma"),
    (r"^layers\.(\d)\.", r"network.encoder.backbone.blocks.\1."),
    (r"^layernorm\.", "network.encoder.backbone.norm."),
    (r"^query\.", "network.q."),
    (r"^class_predictor\.", "network.class_head."),
    (r"^upscale_block\.block\.(\d)\.layernorm2d", r"network.upscale.\1.norm"),
    (r"^upscale_block\.block\.", "network.upscale."),
    (r"^mask_head\.fc1", "network.mask_head.0"),
    (r"^mask_head\.fc2", "network.mask_head.2"),
    (r"^mask_head\.fc3", "network.mask_head.4"),
    (r"^attn_mask_probs", "network.attn_mask_probs"),
]
DINOV3 = [
    (r"^embeddings\.cls_token", "cls_token"),
    (r"^embeddings\.register_tokens", "storage_tokens"),
    (r"^embeddings\.patch_embeddings\.", "patch_embed.proj."),
    (r"^layer\.(\d)\.", r"blocks.\1."),
    (r"attention\.o_proj", "attn.proj"),
    (r"attention\.([qkv])_proj", r"attn.\1_proj"),
    (r"mlp\.up_proj", "mlp.fc1"),
    (r"mlp\.down_proj", "mlp.fc2"),
    (r"layer_scale(\d)\.lambda1", r"ls\1.gamma"),
]
STAGE = r"^backbone\.model\.encoder\.stages\.(\d)\.layers\.(\d+)"
RESNET = [
    (r"^backbone\.model\.embedder\.embedder\.(\d)\.", lambda m: f"backbone.conv1.conv1_{int(m[1]) + 1}."),
    (rf"{STAGE}\.layer\.(\d)\.", lambda m: f"backbone.res_layers.{m[1]}.blocks.{m[2]}.branch2{'abc'[int(m[3])]}."),
    (rf"{STAGE}\.shortcut\.1\.", r"backbone.res_layers.\1.blocks.\2.short.conv."),
    (rf"{STAGE}\.shortcut\.", r"backbone.res_layers.\1.blocks.\2.short."),
    (r"\.convolution\.", ".conv."),
    (r"\.normalization\.", ".norm."),
]
HGNET = [
    (r"^backbone\.model\.embedder\.", "backbone.stem."),
    (r"^backbone\.model\.encoder\.", "backbone."),
    (r"^(backbone\..*)\.convolution\.", r"\1.conv."),
    (r"^(backbone\..*)\.normalization\.", r"\1.bn."),
    (r"^encoder\.downsample_convs\.(\d)\.conv(\d)\.", r"encoder.downsample_convs.\1.0.cv\2."),
    (r"(fpn|pan)_blocks\.(\d)\.conv1\.", r"\1_blocks.\2.cv1."),
    (r"(fpn|pan)_blocks\.(\d)\.csp_rep1\.", r"\1_blocks.\2.cv2.0."),
    (r"(fpn|pan)_blocks\.(\d)\.conv2\.", r"\1_blocks.\2.cv2.1."),
    (r"(fpn|pan)_blocks\.(\d)\.csp_rep2\.", r"\1_blocks.\2.cv3.0."),
    (r"(fpn|pan)_blocks\.(\d)\.conv3\.", r"\1_blocks.\2.cv3.1."),
    (r"(fpn|pan)_blocks\.(\d)\.conv4\.", r"\1_blocks.\2.cv4."),
]
TRANSFORMER = [
    (r"^encoder_input_proj\.", "encoder.input_proj."),
    (r"^encoder\.aifi\.", "encoder.encoder."),
    (r"^decoder\.class_embed\.", "decoder.dec_score_head."),
    (r"^decoder\.bbox_embed\.", "decoder.dec_bbox_head."),
    (r"^decoder\.(?!query_pos_head|pre_bbox_head|dec_)", "decoder.decoder."),
    (r"\.encoder_attn\.n_points_scale", ".cross_attn.num_points_scale"),
    (r"\.encoder_attn_layer_norm\.", ".norm2."),
    (r"\.encoder_attn\.", ".cross_attn."),
    (r"\.self_attn_layer_norm\.", ".norm1."),
    (r"^(encoder.*)\.final_layer_norm\.", r"\1.norm2."),
    (r"^(decoder.*)\.final_layer_norm\.", r"\1.norm3."),
    (r"\.mlp\.fc([12])\.", r".linear\1."),
    (r"\.mlp\.layers\.0\.", ".linear1."),
    (r"\.mlp\.layers\.1\.", ".linear2."),
    (r"\.o_proj\.", ".out_proj."),
    (r"^decoder_input_proj\.(\d)\.0\.", r"decoder.input_proj.\1.conv."),
    (r"^decoder_input_proj\.(\d)\.1\.", r"decoder.input_proj.\1.norm."),
    (r"^(enc_output|enc_score_head|enc_bbox_head|denoising_class_embed)\.", r"decoder.\1."),
]
NOT_IN_V1 = [
    (r"^encoder\.input_proj\.(\d)\.0\.", r"encoder.input_proj.\1.conv."),
    (r"^encoder\.input_proj\.(\d)\.1\.", r"encoder.input_proj.\1.norm."),
    (r"^decoder\.enc_output\.0\.", "decoder.enc_output.proj."),
    (r"^decoder\.enc_output\.1\.", "decoder.enc_output.norm."),
]
LW_DETR_BACKBONE = [  # with the projector
    (r"^model\.backbone\.backbone\.embeddings\.position_embeddings$", "backbone.0.encoder.pos_embed"),
    (r"^model\.backbone\.backbone\.embeddings\.projection\.", "backbone.0.encoder.patch_embed.proj."),
    (r"^model\.backbone\.backbone\.encoder\.layer\.", "backbone.0.encoder.blocks."),
    (r"\.layernorm_before\.", ".norm1."),
    (r"\.layernorm_after\.", ".norm2."),
    (r"\.attention\.o_proj\.", ".attn.proj."),
    (r"\.attention\.(q|v)_proj\.bias$", r".attn.\1_bias"),
    (r"\.intermediate\.", ".mlp."),
    (r"^model\.backbone\.projector\.scale_layers\.", "backbone.0.projector."),
    (r"\.projector\.(\d)\.sampling_layers\.(\d)\.layers\.", r".projector.stages_sampling.\1.\2."),
    (r"\.projector\.(\d)\.projector_layer\.", r".projector.stages.\1.0."),
    (r"\.projector\.(\d)\.layer_norm\.", r".projector.stages.\1.1."),
    (r"\.bottlenecks\.", ".m."),
    (r"\.conv(\d)\.", r".cv\1."),
    (r"^(backbone\.0\.projector\..*)\.norm\.", r"\1.bn."),
]
LW_DETR = [
    (r"^model\.decoder\.layernorm\.", "transformer.decoder.norm."),
    (r"^model\.reference_point_embed\.", "refpoint_embed."),
    (r"^model\.query_feat\.", "query_feat."),
    (r"^model\.(decoder|enc_)", r"transformer.\1"),
    (r"\.self_attn_layer_norm\.", ".norm1."),
    (r"\.cross_attn_layer_norm\.", ".norm2."),
    (r"\.layer_norm\.", ".norm3."),
    (r"\.mlp\.fc", ".linear"),
    (r"\.o_proj\.", ".out_proj."),
]
