"A backbone from timm, its weights, its layer groups and a head"
import lazy_loader

__getattr__, __dir__, __all__ = lazy_loader.attach(__name__, submod_attrs={
    'classifier': ['build'],
    'summary': ['param_table'],
})
