"Metrics, their intervals, and what may be said of a difference"
import lazy_loader

__getattr__, __dir__, __all__ = lazy_loader.attach(__name__, submod_attrs={
    'scores': ['metrics'],
    'tables': ['REPORT_TABLE'],
    'readers': ['compare_models'],
    'shift': ['subgroup_table'],
    'thresholds': ['operating_point'],
    'benefit': ['predictive_values', 'decision_curve'],
})
