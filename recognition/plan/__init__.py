"""What a run will do and need, worked out before its first step."""

from recognition.plan.inputs import Inputs, find_inputs
from recognition.plan.run import Plan, make_plan
from recognition.plan.text import render_plan
from recognition.plan.timing import Timing, measure_timing, takes_a_moment

__all__ = ["Inputs", "Plan", "Timing", "find_inputs", "make_plan", "measure_timing", "render_plan", "takes_a_moment"]
