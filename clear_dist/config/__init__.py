"""What can be asked of each command: one frozen model per recipe, flat fields, a description and a range for each.

The same models are built by flags, by JSON or YAML files (``clear_dist.flags``) and by Python code. Values that nothing
names come from a preset (``clear_dist.defaults``). Importing this module does not import torch.
"""

from __future__ import annotations

from .attack import AttackConfig
from .base import NOT_IDENTITY, Config, DataFields, ForgetSplit, ModelFields, Preset, opt
from .certify import CertifyConfig
from .checkpoint import CheckpointListConfig, CheckpointPruneConfig, CheckpointVerifyConfig
from .data_build import DataBuildConfig
from .data_check import DataCheckConfig
from .doctor import DoctorConfig
from .jobs import (
    DataMiniConfig,
    EvaluateConfig,
    MethodsConfig,
    ModelBaseConfig,
    ModelNewConfig,
    QuickstartConfig,
)
from .plan import PlanConfig
from .reports import CompareConfig, ReportConfig
from .reproduce import ReproduceConfig
from .robustness import RobustnessConfig
from .scale import ScaleStudyConfig
from .shadow import FarmStatusConfig, ShadowFarmConfig
from .sweep import SweepConfig
from .tools import ChatConfig, ExportConfig, ImportLogConfig, JudgeConfig
from .training import FinetuneConfig, TrainFields, UnlearnConfig

__all__ = [
    "NOT_IDENTITY",
    "AttackConfig",
    "CertifyConfig",
    "ChatConfig",
    "CheckpointListConfig",
    "CheckpointPruneConfig",
    "CheckpointVerifyConfig",
    "CompareConfig",
    "Config",
    "DataBuildConfig",
    "DataCheckConfig",
    "DataFields",
    "DataMiniConfig",
    "DoctorConfig",
    "EvaluateConfig",
    "ExportConfig",
    "FarmStatusConfig",
    "FinetuneConfig",
    "ForgetSplit",
    "ImportLogConfig",
    "JudgeConfig",
    "MethodsConfig",
    "ModelBaseConfig",
    "ModelFields",
    "ModelNewConfig",
    "PlanConfig",
    "Preset",
    "QuickstartConfig",
    "ReportConfig",
    "ReproduceConfig",
    "RobustnessConfig",
    "ScaleStudyConfig",
    "ShadowFarmConfig",
    "SweepConfig",
    "TrainFields",
    "UnlearnConfig",
    "opt",
]
