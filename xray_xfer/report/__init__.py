"What a run and a study found, as figures, tables and sentences"
import lazy_loader

__getattr__, __dir__, __all__ = lazy_loader.attach(__name__, submod_attrs={
    'results': ['load_study'],
})
