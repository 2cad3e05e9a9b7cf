package smartbatch.frontend.patch;

import static org.junit.Assert.assertEquals;
import static org.junit.Assert.assertFalse;
import static org.junit.Assert.assertTrue;

import java.io.ByteArrayInputStream;
import java.io.InputStream;
import java.util.Map;
import org.junit.Test;

public class PatchesTest {
    /** TorchServe's classes as another build of it has them. */
    private static class AnotherBuild extends ClassLoader {
        @Override
        public InputStream getResourceAsStream(String name) {
            return new ByteArrayInputStream(new byte[] {1, 2, 3});
        }

        @Override
        protected Class<?> findClass(String name) {
            throw new AssertionError("nothing may be loaded, but " + name);
        }
    }

    @Test
    public void aClassOfAnotherBuildIsLeftAloneAndItsSumIsSaid() {
        Map<String, String> outcomes = new Patches(new AnotherBuild()).apply();
        String sum = "039058c6f2c0cb492c533b0a4d14ef77cc0f78abccced5287d84a1a2011cfb81";
        assertFalse(outcomes.isEmpty());
        outcomes.forEach((name, why) -> assertEquals("another build of TorchServe, its SHA-256 is " + sum, why));
    }

    @Test
    public void aClassThatIsNotThereIsSaid() {
        Map<String, String> outcomes = new Patches(new ClassLoader(null) {}).apply();
        outcomes.forEach((name, why) -> assertTrue(why, why.contains("on the class path")));
    }
}
