"A study in pieces that other processes and machines do"
import lazy_loader

__getattr__, __dir__, __all__ = lazy_loader.attach(__name__, submod_attrs={
    'choose': ['choose_engine'],
})
