"""PackNet, and what the paper compares it with: one small file a method.

A new one is a class of methods/method.py's kind in a file of its own, and its line here.
"""
from methods.classifier import Classifier
from methods.finetune import Finetune
from methods.individual import Individual
from methods.joint import Joint
from methods.lwf import LearningWithoutForgetting
from methods.method import Baseline
from methods.packnet import Packing

METHODS = {method.name: method for method in (
    Packing(), Classifier(), Individual(), Finetune(), LearningWithoutForgetting(), Joint())}
BASELINES = tuple(name for name, method in METHODS.items() if isinstance(method, Baseline))
