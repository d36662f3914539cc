"The same study with stock fastai, and how long each takes"
import lazy_loader

__getattr__, __dir__, __all__ = lazy_loader.attach(__name__, submod_attrs={
    'timing': ['bench'],
})
