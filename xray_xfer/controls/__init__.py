"Does the network look where it should, and could it have learnt from chance?"
import lazy_loader

__getattr__, __dir__, __all__ = lazy_loader.attach(__name__, submod_attrs={
    'ask': ['controls'],
})
