"""The names and their modules, for type checkers, which do not read the entry-point group `densevit.names`."""

from densevit_export.head_checks import check_export as check_export
from densevit_export.head_checks import check_exported_predictions as check_exported_predictions
from densevit_workbench.testing.backbone_checks import backbone_checks as backbone_checks
from densevit_workbench.testing.backbone_checks import check_backbone as check_backbone
from densevit_workbench.testing.check_results import CheckFailed as CheckFailed
from densevit_workbench.testing.check_results import CheckResult as CheckResult
from densevit_workbench.testing.head_checks import check_head as check_head
from densevit_workbench.testing.head_checks import head_checks as head_checks
from densevit_workbench.testing.method_checks import check_method as check_method
from densevit_workbench.testing.method_checks import method_checks as method_checks
from densevit_workbench.testing.targets import random_targets as random_targets
