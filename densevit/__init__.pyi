"""The public names and their modules, for `__init__.py` and for type checkers.

The last names are plugins'. `__init__.py` finds them in the entry-point group `densevit.names`; type checkers read no
entry points, so they need the modules here too. tests/test_public_surface.py compares both.
"""

from densevit.data.data_builder import build_data as build_data
from densevit.data.dataset_builder import create_dataset as create_dataset
from densevit.data.loading.batch_sampler import collate as collate
from densevit.errors import ConfigError as ConfigError
from densevit.errors import DataError as DataError
from densevit.errors import DensevitError as DensevitError
from densevit.errors import PluginError as PluginError
from densevit.errors import TrainingError as TrainingError
from densevit.errors import WeightsError as WeightsError
from densevit.inference.model_creation import create_model as create_model
from densevit.inference.model_loading import load as load
from densevit.inference.model_loading import save as save
from densevit.inference.result import Result as Result
from densevit.interfaces import Backbone as Backbone
from densevit.interfaces import CheckpointLayout as CheckpointLayout
from densevit.interfaces import Class as Class
from densevit.interfaces import Dataset as Dataset
from densevit.interfaces import DenseHead as DenseHead
from densevit.interfaces import Evaluator as Evaluator
from densevit.interfaces import Head as Head
from densevit.interfaces import LossContext as LossContext
from densevit.interfaces import Method as Method
from densevit.interfaces import Neck as Neck
from densevit.interfaces import TargetType as TargetType
from densevit.interfaces import Transforms as Transforms
from densevit.model import DenseModel as DenseModel
from densevit.model import create_head as create_head
from densevit.model import create_neck as create_neck
from densevit.registry import list_plugins as list_plugins
from densevit.targets.run_length_masks import RunLengthMasks as RunLengthMasks
from densevit.training.loop.data_module import DenseDataModule as DenseDataModule
from densevit.training.loop.dense_module import DenseModule as DenseModule
from densevit.training.loop.evaluator_factory import create_evaluator as create_evaluator
from densevit.training.loop.optim import create_optimizer as create_optimizer
from densevit.training.loop.supervised_method import create_method as create_method
from densevit.training.run.evaluation import evaluate as evaluate
from densevit.training.run.fit import Run as Run
from densevit.training.run.fit import fit as fit
from densevit.weights.pretrained_models import create_backbone as create_backbone
from densevit_batch.batch_predictor import BatchPredictor as BatchPredictor
from densevit_batch.prelabels import prelabel as prelabel
from densevit_checkpoints.hub_upload import push_to_hub as push_to_hub
from densevit_checkpoints.model_list import list_models as list_models
from densevit_export.exporting import export as export
from densevit_probes.probing import probe as probe
from densevit_workbench.benchmarking.suite import benchmark as benchmark
from densevit_workbench.doctor.examination import doctor as doctor
from densevit_workbench.inspection.model_inspection import inspect_model as inspect_model
from densevit_workbench.interchange.dataset_conversion import convert_dataset as convert_dataset
from densevit_workbench.reports.report_page import report as report

__version__: str
