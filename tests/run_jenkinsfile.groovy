// Runs a Jenkinsfile's stages on this machine: groovy run_jenkinsfile.groovy JENKINSFILE NAME=VALUE...
//
// No Jenkins, but the Groovy that Jenkins is built on: the file is compiled by it, its conditions, loops and exit codes
// count, `sh` is a real shell in this folder. NAME=VALUE set `params` (IMAGE, PUBLISH) and `env` (all else). Prints what was asked.
import org.codehaus.groovy.control.CompilerConfiguration

abstract class Jenkins extends Script {
    boolean skipped = false

    def block(Closure body) {
        body.delegate = this
        body.resolveStrategy = Closure.DELEGATE_FIRST
        body()
    }

    def pipeline(Closure body) { block(body) }
    def agent(Closure body) { block(body) }
    def docker(Closure body) { block(body) }
    def image(String name) { println "image $name" }
    def label(String name) { println "label $name" }
    def args(String words) { println "args $words" }
    def parameters(Closure body) { block(body) }
    def string(Map about) { about }
    def booleanParam(Map about) { about }
    def options(Closure body) { block(body) }
    def timeout(Map about) {}
    def disableConcurrentBuilds() {}
    def buildDiscarder(about) {}
    def logRotator(Map about) {}
    def stages(Closure body) { block(body) }
    def stage(String name, Closure body) {
        skipped = false
        println "stage $name"
        block(body)
    }
    def when(Closure body) { skipped = !block(body) }
    def expression(Closure body) { block(body) as boolean }
    def allOf(Closure body) {
        def all = new AllOf()
        body.delegate = all
        body.resolveStrategy = Closure.DELEGATE_FIRST
        body()
        all.holds
    }
    def steps(Closure body) { if (skipped) println 'skipped' else block(body) }
    def script(Closure body) { block(body) }
    def post(Closure body) { if (!skipped) block(body) }
    def always(Closure body) { block(body) }
    def archiveArtifacts(Map about) { println "archive ${about.artifacts}" }
    def withCredentials(List wanted, Closure body) {
        wanted.each { println "secret ${it.credentialsId}" }
        block(body)
    }
    def error(String sentence) { throw new Exception(sentence) }
    def sh(String command) { if (run(command) != 0) error("sh ended with another code than 0: $command") }
    def sh(Map about) { about.returnStatus ? run(about.script) : sh(about.script) }

    int run(String command) {
        println "sh $command"
        System.out.flush()
        new ProcessBuilder('sh', '-c', command).inheritIO().start().waitFor()
    }
}

class AllOf {
    boolean holds = true
    def expression(Closure body) { holds = (body() as boolean) && holds }
}

def given = args.tail().collectEntries { def (name, value) = it.split('=', 2); [name, value] }
def binding = new Binding(
    params: [IMAGE: given.IMAGE, PUBLISH: given.PUBLISH == 'true'],
    env: given.findAll { !(it.key in ['IMAGE', 'PUBLISH']) }
)
def how = new CompilerConfiguration(scriptBaseClass: Jenkins.name)
try {
    new GroovyShell(this.class.classLoader, binding, how).evaluate(new File(args[0]))
} catch (Exception failed) {
    println "failed: ${failed.message}"
    System.exit(1)
}
