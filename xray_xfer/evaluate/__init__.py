"Metrics, their intervals, and what may be said of a difference"
import lazy_loader

__getattr__, __dir__, __all__ = lazy_loader.attach(__name__, submod_attrs={
    'scores': ['metrics'],
    'tables': ['REPORT_TABLE'],
    'readers': ['compare_models'],
})
